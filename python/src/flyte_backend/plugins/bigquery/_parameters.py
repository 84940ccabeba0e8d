"""Inputs of a task as parameters of its query, in the JSON of BigQuery's REST API (``QueryParameter``).

A parameter's type comes from what the task declares, and only without that from the value. So a null has a type, and an empty
list too.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from typing import Any

from ..._errors import UserError
from ..._protojson import Invalid
from ..._types import Binary, Blob, Dataset, Offloaded, Schema, TaskFailure
from ..._values import decode, flatten

Json = Any


class Unfit(Exception):
    """A value that can be no parameter, and why."""


_SIMPLE = {
    "INTEGER": "INT64",
    "FLOAT": "FLOAT64",
    "STRING": "STRING",
    "BOOLEAN": "BOOL",
    "DATETIME": "TIMESTAMP",
    "DURATION": "INTERVAL",
    "BINARY": "BYTES",
    "NONE": "STRING",
}

# What no parameter can be, as people call it.
_STORED = {
    "blob": "a file or folder",
    "structuredDatasetType": "a dataset",
    "schema": "a table of the older kind (FlyteSchema)",
}
_KINDS: dict[type, str] = {
    Blob: "a file or folder",
    Dataset: "a dataset",
    Schema: "a table of the older kind (FlyteSchema)",
    TaskFailure: "an error",
    Offloaded: "a value so large that it is stored elsewhere",
}


def query_parameters(literals: Mapping[str, Json], variables: Mapping[str, Json]) -> list[dict[str, Json]]:
    """A parameter for each input, of its own name, sorted by name. ``variables`` are the task's declared inputs.

    Raises :class:`UserError`, which names the input that can be no parameter."""
    out = []
    for name in sorted(literals):
        try:
            out.append({"name": name, **_parameter(literals[name], variables.get(name, {}).get("type"))})
        except (Unfit, Invalid) as e:
            raise UserError(f"input {name!r} cannot be a parameter of the query: {e}", reason="BadInput") from e
        except RecursionError:
            raise UserError(f"input {name!r} cannot be a parameter of the query: it nests too deep") from None
    return out


def _parameter(literal: Json, declared: Json) -> dict[str, Json]:
    while (union := literal.get("scalar", {}).get("union")) is not None:
        literal = union.get("value", {})
        if "noneType" not in literal.get("scalar", {}):
            declared = union.get("type") or declared  # the value tells which of the types it is
    value = decode(literal)
    kind = _type_of(declared, value)
    return {"parameterType": kind, "parameterValue": _value(value, kind)}


# ---- types


def _type_of(declared: Json, value: Any) -> dict[str, Json]:
    """BigQuery's type (``QueryParameterType``) of a Flyte type; of the value where nothing is declared."""
    match declared or {}:
        case {"simple": "STRUCT"}:
            return _structure_type(declared)
        case {"simple": simple} if simple in _SIMPLE:
            return {"type": _SIMPLE[simple]}
        case {"enumType": _}:
            return {"type": "STRING"}
        case {"mapValueType": _}:
            return {"type": "JSON"}
        case {"collectionType": of}:
            return _array_of(_type_of(of, _first(value)))
        case {"unionType": of}:
            variants = [one for one in of.get("variants", ()) if one.get("simple") != "NONE"]
            if len(variants) == 1 or value is None and variants:
                return _type_of(variants[0], value)
            return _type_of_value(value)
        case {"simple": "ERROR"}:
            raise Unfit("it is an error")
        case other:
            for stored, called in _STORED.items():
                if stored in other:
                    raise Unfit(f"it is {called}, which is stored elsewhere; pass its path as text")
            return _type_of_value(value)


def _array_of(items: dict[str, Json]) -> dict[str, Json]:
    if items["type"] == "ARRAY":
        raise Unfit("it is a list of lists, which BigQuery has not; a list of dataclasses that hold a list is possible")
    return {"type": "ARRAY", "arrayType": items}


def _first(value: Any) -> Any:
    items = value if isinstance(value, (list, tuple)) else ()
    return next((item for item in items if item is not None), None)


def _type_of_value(value: Any) -> dict[str, Json]:
    match value:
        case bool():
            return {"type": "BOOL"}
        case int():
            return {"type": "INT64"}
        case float():
            return {"type": "FLOAT64"}
        case datetime():
            return {"type": "TIMESTAMP"}
        case timedelta():
            return {"type": "INTERVAL"}
        case bytes():
            return {"type": "BYTES"}
        case None | str():
            return {"type": "STRING"}
        case list() | tuple():
            return _array_of(_type_of_value(_first(value)))
        case dict():
            return {"type": "JSON"}
        case Binary():
            raise Unfit(f"it is bytes in the encoding {value.tag!r}, which is not known here")
        case _:
            raise Unfit(f"it is {_KINDS.get(type(value), f'a {type(value).__name__}')}; pass its path as text")


def _structure_type(declared: Json) -> dict[str, Json]:
    """A STRUCT of a dataclass or model, whose fields flytekit writes down; JSON for what may have any fields."""
    fields = declared.get("structure", {}).get("dataclassType")
    if not fields:
        fields = _of_schema(declared.get("metadata", {})).get("structure", {}).get("dataclassType")
    if not fields:
        return {"type": "JSON"}
    types = []
    for name in sorted(fields):
        try:
            types.append({"name": name, "type": _type_of(fields[name], None)})
        except Unfit:  # a file, a list of lists: it is part of the structure's text all the same
            types.append({"name": name, "type": {"type": "JSON"}})
    return {"type": "STRUCT", "structTypes": types}


def _of_schema(schema: Json) -> Json:
    """The Flyte type of a JSON schema, in which flytekit describes a dataclass where it does not tell the fields' types, as in
    an Optional."""
    match schema:
        case {"anyOf": variants}:
            return {"unionType": {"variants": [_of_schema(one) for one in variants]}}
        case {"type": "object", "properties": fields}:
            return {"simple": "STRUCT", "structure": {"dataclassType": {k: _of_schema(v) for k, v in fields.items()}}}
        case {"type": "array", "items": of}:
            return {"collectionType": _of_schema(of)}
        case {"type": "string", "format": "date-time" | "date"}:
            return {"simple": "DATETIME"}
        case {"type": "number", "format": "time-delta"}:
            return {"simple": "DURATION"}
        case {"type": "integer" | "number" | "string" | "boolean" | "null" as simple}:
            kinds = {"integer": "INTEGER", "number": "FLOAT", "string": "STRING", "boolean": "BOOLEAN", "null": "NONE"}
            return {"simple": kinds[simple]}
        case _:
            return {"simple": "STRUCT"}


# ---- values


def _value(value: Any, kind: dict[str, Json]) -> dict[str, Json]:
    """BigQuery's ``QueryParameterValue`` of a type."""
    match kind["type"]:
        case "ARRAY":  # BigQuery does not tell a null array from an empty one
            if not isinstance(value, (list, tuple, type(None))):
                raise _unlike(value, "a list")
            return {"arrayValues": [_value(item, kind["arrayType"]) for item in value or ()]}
        case "STRUCT":  # nor can a parameter be a null STRUCT: its fields are null instead
            if not isinstance(value, (dict, type(None))):
                raise _unlike(value, "a structure")
            fields = {one["name"]: one["type"] for one in kind["structTypes"]}
            given = value or {}
            return {"structValues": {name: _field(name, given.get(name), of) for name, of in fields.items()}}
        case simple:
            return {"value": None if value is None else _text(value, simple)}


def _field(name: str, value: Any, kind: dict[str, Json]) -> dict[str, Json]:
    try:
        return _value(value, kind)
    except Unfit as e:
        raise Unfit(f"in its field {name}: {e}") from None


def _text(value: Any, kind: str) -> str:
    """Text of a scalar, as the REST API takes it."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    match kind:
        case "INT64" if number and math.isfinite(value) and int(value) == value:
            return str(int(value))
        case "FLOAT64" if number:
            return _float(float(value))
        case "BOOL" if isinstance(value, bool):
            return "true" if value else "false"
        case "STRING" if isinstance(value, str):
            return value
        case "BYTES" if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        case "TIMESTAMP":
            return _timestamp(value)
        case "INTERVAL":
            return _interval(timedelta(seconds=value) if number else value)
        case "JSON":
            return _json(value)
    raise _unlike(value, kind)


def _unlike(value: Any, kind: str) -> Unfit:
    return Unfit(f"it is {_KINDS.get(type(value), f'a {type(value).__name__}')} where {kind} is declared")


def _float(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _timestamp(value: Any) -> str:
    """A TIMESTAMP, to the microsecond. In dataclasses, times are text."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            raise Unfit(f"it is no time: {value[:40]!r}") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        raise _unlike(value, "TIMESTAMP")
    if value.tzinfo is None:
        value = value.replace(tzinfo=timezone.utc)
    when: datetime = value.astimezone(timezone.utc)
    return when.isoformat(sep=" ")


def _interval(value: Any) -> str:
    """An INTERVAL of exact time. Hours may be many: a day of an INTERVAL is a day of the calendar, which this is not."""
    if not isinstance(value, timedelta):
        raise _unlike(value, "INTERVAL")
    micros = value // timedelta(microseconds=1)
    seconds, rest = divmod(abs(micros), 1_000_000)
    clock = f"{seconds // 3600}:{seconds // 60 % 60}:{seconds % 60}"
    return f"0-0 0 {'-' if micros < 0 else ''}{clock}{f'.{rest:06}' if rest else ''}"


def _json(value: Any) -> str:
    for kind, called in _KINDS.items():
        if isinstance(value, kind):
            raise Unfit(f"it is {called}, which is no JSON")
    try:
        flat = flatten(_without_bytes(value))
        return json.dumps(flat, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as e:
        raise Unfit(f"it is no JSON: {e}") from e


def _without_bytes(value: Any) -> Any:
    """JSON has no bytes: they become base64, as protobuf does it."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {key: _without_bytes(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_without_bytes(item) for item in value]
    return value
