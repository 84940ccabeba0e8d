"""What flytekit's connectors give, in the form of this package: outputs, pages of a log, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from typing import Any

from ._binding import in_thread
from ._errors import SystemError_
from ._plugin import LogLine, LogPage, Metric
from ._protojson import Invalid, Json
from ._values import Literals, encode

_PLAIN = (type(None), bool, int, float, str, bytes, datetime, date, timedelta)


async def outputs_of(outputs: Any, types: Mapping[str, Json], context: Any) -> Literals:
    """Literals of a LiteralMap or of Python values by name, of the Flyte types that the task declares, where they are known.

    flytekit's service goes by the values alone, even where it has the task: lists fail there. Here plain values become what
    they are declared as, or else what they suggest, and all others what flytekit makes of their class.
    """
    from flyteidl.core import literals_pb2
    from flytekit.models.literals import LiteralMap
    from google.protobuf import json_format

    if isinstance(outputs, LiteralMap):
        outputs = outputs.to_flyte_idl()
    if isinstance(outputs, literals_pb2.LiteralMap):
        return Literals(json_format.MessageToDict(outputs).get("literals", {}))
    if not isinstance(outputs, Mapping):
        raise SystemError_(f"the connector's outputs are a {type(outputs).__name__}; a LiteralMap or a dict by name is due")

    def convert() -> Literals:
        out = Literals()
        for name, value in outputs.items():
            try:
                out[name] = _literal(value, types.get(name), context)
            except Invalid as e:
                raise SystemError_(f"the connector's outputs: {name}: {e}") from e
            except Exception as e:  # flytekit's converters raise anything
                raise SystemError_(
                    f"the connector's outputs: {name}: no literal can be made of a {type(value).__name__}"
                ) from e
        return out

    # flytekit's converters may upload files.
    return convert() if all(_is_plain(value) for value in outputs.values()) else await in_thread(convert)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return type(value) in _PLAIN


def _literal(value: Any, declared: Json, context: Any) -> Json:
    from flyteidl.core import literals_pb2, types_pb2
    from flytekit.core.type_engine import TypeEngine
    from flytekit.models.literals import Literal
    from flytekit.models.types import LiteralType
    from google.protobuf import json_format

    if isinstance(value, Literal):
        value = value.to_flyte_idl()
    if isinstance(value, literals_pb2.Literal):
        return json_format.MessageToDict(value)
    if _is_plain(value):
        return encode(value, declared)
    if isinstance(value, (list, tuple)):
        of = (declared or {}).get("collectionType")
        return {"collection": {"literals": [_literal(item, of, context) for item in value]}}
    if isinstance(value, dict) and (declared or {}).get("mapValueType"):
        of = declared["mapValueType"]
        return {"map": {"literals": {str(key): _literal(item, of, context) for key, item in value.items()}}}
    if declared and "unionType" not in declared:
        expected = LiteralType.from_flyte_idl(json_format.ParseDict(declared, types_pb2.LiteralType()))
    else:
        expected = TypeEngine.to_literal_type(type(value))
    return json_format.MessageToDict(TypeEngine.to_literal(context, value, type(value), expected).to_flyte_idl())


def log_lines(answers: Sequence[Any]) -> LogPage:
    """A page of a log of GetTaskLogsResponse, of which a header and a body are one each."""
    lines: list[LogLine | str] = []
    following = ""
    for answer in answers:
        if isinstance(answer, str):
            lines.append(answer)
            continue
        part = answer.WhichOneof("part") if hasattr(answer, "WhichOneof") else ""
        if part == "header":
            following = answer.header.token
        elif part == "body":
            structured = list(getattr(answer.body, "structured_lines", ()))
            lines += [_line(line) for line in structured] or list(answer.body.results)
        elif part == "":
            raise SystemError_(f"the connector gave a {type(answer).__name__} as a job's log; a GetTaskLogsResponse is due")
    return LogPage(lines, following)


def _line(line: Any) -> LogLine:
    from flyteidl.admin import agent_pb2

    when = line.timestamp.ToDatetime(timezone.utc) if line.HasField("timestamp") else None
    return LogLine(line.message, when, line.originator == agent_pb2.SYSTEM)


def metrics_of(answer: Any) -> list[Metric]:
    """Metrics of a GetTaskMetricsResponse."""
    from google.protobuf import json_format

    if not hasattr(answer, "results"):
        raise SystemError_(f"the connector gave a {type(answer).__name__} as metrics; a GetTaskMetricsResponse is due")
    return [
        Metric(result.metric, json_format.MessageToDict(result.data) if result.HasField("data") else None)
        for result in answer.results
    ]
