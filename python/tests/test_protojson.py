"""flyteidl's messages in protobuf's JSON form, without protobuf."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from flyte_backend._protojson import Invalid, _enum, check_message, contract

from .conftest import ROOT

TEMPLATES = sorted((ROOT / "testdata/templates").glob("*.json"))
LITERAL, TEMPLATE = "flyteidl.core.Literal", "flyteidl.core.TaskTemplate"


def test_the_packaged_contract_is_the_contract() -> None:
    assert contract() == yaml.load((ROOT / "api/openapi.yaml").read_text(), yaml.CSafeLoader), "run make generate"


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda f: f.stem)
def test_as_protobuf_has_it(file: Path) -> None:
    """The same as what protobuf makes of it, from its own form and from the one with the names of the .proto files."""
    from flyteidl.core import tasks_pb2
    from google.protobuf import json_format

    message = json_format.ParseDict(json.loads(file.read_text()), tasks_pb2.TaskTemplate())
    want = json_format.MessageToDict(message)
    assert check_message(TEMPLATE, want) == want
    assert check_message(TEMPLATE, json_format.MessageToDict(message, preserving_proto_field_name=True)) == want
    again = json_format.ParseDict(
        check_message(TEMPLATE, json_format.MessageToDict(message, use_integers_for_enums=True)), type(message)()
    )
    assert again == message


@pytest.mark.parametrize(
    ("reason", "message", "given", "want"),
    [
        ("names of the .proto", TEMPLATE, {"task_type_version": 3}, {"taskTypeVersion": 3}),
        ("null is nothing", TEMPLATE, {"container": None, "type": "t"}, {"type": "t"}),
        ("unknown fields are passed over", TEMPLATE, {"of_tomorrow": {"a": 1}}, {}),
        (
            "64-bit integers are text",
            LITERAL,
            {"scalar": {"primitive": {"integer": 5.0}}},
            {"scalar": {"primitive": {"integer": "5"}}},
        ),
        ("32-bit ones are numbers", TEMPLATE, {"taskTypeVersion": "3"}, {"taskTypeVersion": 3}),
        (
            "numbers as text",
            LITERAL,
            {"scalar": {"primitive": {"floatValue": "1e3"}}},
            {"scalar": {"primitive": {"floatValue": 1000.0}}},
        ),
        ("URL-safe base64", LITERAL, {"scalar": {"binary": {"value": "_-8"}}}, {"scalar": {"binary": {"value": "/+8="}}}),
        ("enum by name", TEMPLATE, {"id": {"resourceType": "TASK"}}, {"id": {"resourceType": "TASK"}}),
        ("enum by number", TEMPLATE, {"id": {"resourceType": 1}}, {"id": {"resourceType": "TASK"}}),
        ("a field that is called so", "flyteidl.core.TaskLog", {"ShowWhilePending": True}, {"ShowWhilePending": True}),
    ],
)
def test_one_form(reason: str, message: str, given: Any, want: Any) -> None:
    assert check_message(message, given) == want, reason


def deep(levels: int) -> dict[str, Any]:
    literal: dict[str, Any] = {}
    for _ in range(levels):
        literal = {"collection": {"literals": [literal]}}
    return literal


@pytest.mark.parametrize(
    ("reason", "message", "given", "says"),
    [
        ("no object", TEMPLATE, [], "it is an array; an object is due"),
        ("text", TEMPLATE, {"type": 1}, "type: it is a number; text is due"),
        ("boolean", TEMPLATE, {"metadata": {"discoverable": "yes"}}, "metadata.discoverable: it is text; true or false is due"),
        ("array", TEMPLATE, {"container": {"args": "a"}}, "container.args: it is text; an array is due"),
        ("null in an array", TEMPLATE, {"container": {"args": ["a", None]}}, "container.args[1]: it is null; text is due"),
        ("map", TEMPLATE, {"config": []}, "config: it is an array; an object is due"),
        ("in a map", TEMPLATE, {"config": {"a": 1}}, 'config."a": it is a number; text is due'),
        (
            "twice, by both names",
            TEMPLATE,
            {"taskTypeVersion": 1, "task_type_version": 1},
            "taskTypeVersion stands there twice",
        ),
        ("one of them", TEMPLATE, {"container": {}, "sql": {}}, "container and sql exclude each other"),
        ("unknown enum", TEMPLATE, {"id": {"resourceType": "NOPE"}}, 'resourceType: it is "NOPE", which is none of its values'),
        ("true is no enum", TEMPLATE, {"id": {"resourceType": True}}, "resourceType"),
        ("fraction", TEMPLATE, {"taskTypeVersion": 1.5}, "taskTypeVersion: it is 1.5, which is no integer"),
        ("too large", TEMPLATE, {"taskTypeVersion": 1 << 31}, "which is not from -2147483648 to 2147483647"),
        ("leading zero", LITERAL, {"scalar": {"primitive": {"integer": "01"}}}, "which is no integer"),
        ("float text", LITERAL, {"scalar": {"primitive": {"floatValue": "nan"}}}, "which is no number"),
        ("float too large", LITERAL, {"scalar": {"primitive": {"floatValue": float("inf")}}}, "too large"),
        ("base64", LITERAL, {"scalar": {"binary": {"value": "a"}}}, "it is no base64"),
        ("both alphabets", LITERAL, {"scalar": {"binary": {"value": "+_8="}}}, "it is no base64"),
        (
            "time",
            LITERAL,
            {"scalar": {"primitive": {"datetime": "2026-02-30T00:00:00Z"}}},
            "which is no time as RFC 3339 has it",
        ),
        ("time without a zone", LITERAL, {"scalar": {"primitive": {"datetime": "2026-02-03T00:00:00"}}}, "which is no time"),
        ("duration", LITERAL, {"scalar": {"primitive": {"duration": "1m"}}}, "which is no duration such as 1.5s"),
        ("duration of only an s", LITERAL, {"scalar": {"primitive": {"duration": "s"}}}, "which is no duration"),
        ("duration too long", LITERAL, {"scalar": {"primitive": {"duration": "315576000001s"}}}, "which is no duration"),
        ("struct", TEMPLATE, {"custom": []}, "custom: it is an array; an object is due"),
        ("number in a struct", TEMPLATE, {"custom": {"a": [float("inf")]}}, "too large"),
        ("deep", LITERAL, deep(5000), "it nests too deep"),
    ],
)
def test_refused(reason: str, message: str, given: Any, says: str) -> None:
    with pytest.raises(Invalid) as e:
        check_message(message, given)
    assert says in str(e.value), reason


def test_numbers_of_enums() -> None:
    names = {"type": "string", "enum": ["A", "B"]}
    named = _enum({"anyOf": [names, {"type": "integer", "enum": [0, 5]}]})
    assert [named(value) for value in (0, 5, 5.0, "B")] == ["A", "B", "B", "B"]
    for value in (1, 7, True, "C", None):
        with pytest.raises(Invalid, match="which is none of its values"):
            named(value)
    free = _enum({"anyOf": [names, {"type": "integer", "minimum": 0}]})
    assert [free(value) for value in (1, 7)] == ["B", 7], "the contract does not say which there are"
