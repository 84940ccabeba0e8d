"""Literals as Python values and back."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Any, Optional, TypedDict

import msgpack
import pytest
from flyte_backend import Binary, Blob, Dataset, Literals, Offloaded, Schema, TaskFailure
from flyte_backend._protojson import Invalid, check_message
from flyte_backend._values import decode, decode_literals, encode, encode_outputs, encode_struct, literal_type, variables_of
from pydantic import BaseModel

UTC = timezone.utc


def primitive(kind: str, value: Any) -> dict[str, Any]:
    return {"scalar": {"primitive": {kind: value}}}


def msgpacked(value: Any) -> dict[str, Any]:
    import base64

    return {"scalar": {"binary": {"value": base64.b64encode(msgpack.packb(value)).decode(), "tag": "msgpack"}}}


# Reason, literal, value; the value gives the literal back.
BOTH_WAYS: list[tuple[str, dict[str, Any], Any]] = [
    ("int", primitive("integer", "7"), 7),
    ("the largest int", primitive("integer", str((1 << 63) - 1)), (1 << 63) - 1),
    ("float", primitive("floatValue", 1.5), 1.5),
    ("infinity", primitive("floatValue", "-Infinity"), float("-inf")),
    ("str", primitive("stringValue", "grüße"), "grüße"),
    ("empty str", primitive("stringValue", ""), ""),
    ("bool", primitive("boolean", False), False),
    ("datetime", primitive("datetime", "2026-02-03T04:05:06.000007Z"), datetime(2026, 2, 3, 4, 5, 6, 7, UTC)),
    ("timedelta", primitive("duration", "90.500000s"), timedelta(seconds=90.5)),
    ("negative timedelta", primitive("duration", "-0.000001s"), timedelta(microseconds=-1)),
    ("bytes", {"scalar": {"binary": {"value": "AAH/"}}}, b"\x00\x01\xff"),
    ("tagged bytes", {"scalar": {"binary": {"value": "eA==", "tag": "png"}}}, Binary(b"x", "png")),
    ("None", {"scalar": {"noneType": {}}}, None),
    ("list", {"collection": {"literals": [primitive("integer", "1"), primitive("stringValue", "a")]}}, [1, "a"]),
    ("list of lists", {"collection": {"literals": [{"collection": {"literals": []}}]}}, [[]]),
    ("dict", msgpacked({"a": [1, None, 2.5], "b": {"c": b"x"}}), {"b": {"c": b"x"}, "a": [1, None, 2.5]}),
    ("dict with int keys", msgpacked({1: "a"}), {1: "a"}),
    (
        "file",
        {"scalar": {"blob": {"uri": "s3://b/f", "metadata": {"type": {"format": "csv", "dimensionality": "SINGLE"}}}}},
        Blob("s3://b/f", "csv"),
    ),
    (
        "folder",
        {"scalar": {"blob": {"uri": "s3://b/d", "metadata": {"type": {"format": "", "dimensionality": "MULTIPART"}}}}},
        Blob("s3://b/d", folder=True),
    ),
    (
        "table",
        {
            "scalar": {
                "structuredDataset": {
                    "uri": "s3://b/t",
                    "metadata": {
                        "structuredDatasetType": {
                            "format": "parquet",
                            "columns": [{"name": "n", "literalType": {"simple": "INTEGER"}}],
                        }
                    },
                }
            }
        },
        Dataset("s3://b/t", "parquet", (("n", {"simple": "INTEGER"}),)),
    ),
    ("older table", {"scalar": {"schema": {"uri": "s3://b/s", "type": {}}}}, Schema("s3://b/s")),
    ("error", {"scalar": {"error": {"failedNodeId": "n0", "message": "no"}}}, TaskFailure("n0", "no")),
]


@pytest.mark.parametrize(("literal", "value"), [case[1:] for case in BOTH_WAYS], ids=[case[0] for case in BOTH_WAYS])
def test_both_ways(literal: dict[str, Any], value: Any) -> None:
    checked = check_message("flyteidl.core.Literal", literal)
    found = decode(checked)
    assert found == value
    assert type(found) is type(value)
    assert check_message("flyteidl.core.Literal", encode(value)) == checked


@pytest.mark.parametrize(
    ("reason", "literal", "value"),
    [
        ("union", {"scalar": {"union": {"value": primitive("integer", "1"), "type": {"simple": "INTEGER"}}}}, 1),
        ("map", {"map": {"literals": {"a": primitive("integer", 5)}}}, {"a": 5}),
        ("Struct has floats only", {"scalar": {"generic": {"n": 2.0, "x": [1.5], "s": "a"}}}, {"n": 2, "x": [1.5], "s": "a"}),
        ("another zone", primitive("datetime", "2026-02-03T04:05:06+02:00"), datetime(2026, 2, 3, 2, 5, 6, 0, UTC)),
        ("nanoseconds are cut off", primitive("duration", "1.000000999s"), timedelta(seconds=1)),
        ("stored elsewhere", {"offloadedMetadata": {"uri": "s3://b/l", "sizeBytes": "9"}}, Offloaded("s3://b/l", 9)),
    ],
)
def test_to_python(reason: str, literal: dict[str, Any], value: Any) -> None:
    assert decode(check_message("flyteidl.core.Literal", literal)) == value, reason


@pytest.mark.parametrize(
    ("reason", "literal", "says"),
    [
        ("empty", {}, "x: it is an empty literal"),
        ("empty scalar", {"scalar": {}}, "x: it is an empty literal"),
        ("empty primitive", {"scalar": {"primitive": {}}}, "x: it is an empty literal"),
        ("no MessagePack", {"scalar": {"binary": {"value": "wQ==", "tag": "msgpack"}}}, "x: it is no valid MessagePack"),
        ("deep inside", {"collection": {"literals": [primitive("integer", 1), {}]}}, "x[1]: it is an empty literal"),
    ],
)
def test_cannot_be_read(reason: str, literal: dict[str, Any], says: str) -> None:
    with pytest.raises(Invalid) as e:
        decode_literals({"x": literal})
    assert str(e.value) == says, reason


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    when: datetime | None = None


class Model(BaseModel):
    point: Point
    took: timedelta


class Typed(TypedDict):
    a: int


@pytest.mark.parametrize(
    ("reason", "value", "literal"),
    [
        ("enum", Colour.RED, primitive("stringValue", "red")),
        ("tuple", (1,), {"collection": {"literals": [primitive("integer", "1")]}}),
        ("a time without a zone is UTC", datetime(2026, 1, 1), primitive("datetime", "2026-01-01T00:00:00Z")),
        ("date", date(2026, 1, 1), primitive("datetime", "2026-01-01T00:00:00Z")),
        ("dataclass", Point(1), msgpacked({"when": None, "x": 1})),
        ("model", Model(point=Point(1), took=timedelta(seconds=2)), msgpacked({"point": {"when": None, "x": 1}, "took": 2.0})),
        (
            "time in a structure",
            Point(1, datetime(2026, 1, 1, tzinfo=UTC)),
            msgpacked({"when": "2026-01-01T00:00:00+00:00", "x": 1}),
        ),
    ],
)
def test_to_literal(reason: str, value: Any, literal: dict[str, Any]) -> None:
    assert encode(value) == literal, reason


@pytest.mark.parametrize(
    ("reason", "type_", "value", "literal"),
    [
        ("int as float", float, 1, primitive("floatValue", 1.0)),
        ("whole float as int", int, 2.0, primitive("integer", "2")),
        ("dict of ints", dict[str, int], {"a": 1}, {"map": {"literals": {"a": primitive("integer", "1")}}}),
        ("list of floats", list[float], [1], {"collection": {"literals": [primitive("floatValue", 1.0)]}}),
        (
            "optional",
            Optional[int],
            1,
            {"scalar": {"union": {"value": primitive("integer", "1"), "type": {"simple": "INTEGER"}}}},
        ),
        (
            "optional None",
            int | None,
            None,
            {"scalar": {"union": {"value": {"scalar": {"noneType": {}}}, "type": {"simple": "NONE"}}}},
        ),
        ("enum", Colour, Colour.RED, primitive("stringValue", "red")),
        ("a path as a file", Blob, "s3://b/f", encode(Blob("s3://b/f"))),
        ("a uri as a table", Dataset, "s3://b/t", encode(Dataset("s3://b/t"))),
        ("a dict of anything", dict[str, Any], {"a": 1}, msgpacked({"a": 1})),
        ("anything", Any, 1, primitive("integer", "1")),
    ],
)
def test_of_a_type(reason: str, type_: Any, value: Any, literal: dict[str, Any]) -> None:
    assert encode(value, literal_type(type_)) == literal, reason


class Loop:
    pass


looped: list[Any] = []
looped.append(looped)
looped_dict: dict[str, Any] = {}
looped_dict["me"] = looped_dict


@pytest.mark.parametrize(
    ("reason", "value", "type_", "says"),
    [
        ("too large", 1 << 63, None, "x: it is an integer of more than 64 bits"),
        ("too large inside", {"a": 1 << 64}, None, "x: it holds a number of more than 64 bits"),
        ("half a character", "\ud800", None, "x: it is text that is no Unicode"),
        ("no type of Flyte's", Loop(), None, "x: no literal can be made of a Loop"),
        ("inside a list", [Loop()], None, "x[0]: no literal can be made of a Loop"),
        ("leads to itself", looped, None, "x nests too deep"),
        ("leads to itself, a dict", looped_dict, None, "nests too deep"),
        ("a file in a structure", {"f": Blob("s3://b/f")}, None, "x.f: a Blob is no part of a structure"),
        ("not that type", "a", int, "x: it is a str; a value of kind INTEGER is due"),
        ("bool is no int", True, int, "x: it is a bool; a value of kind INTEGER is due"),
        ("a fraction is no int", 1.5, int, "x: it is a float; a value of kind INTEGER is due"),
        ("infinity is no int", float("inf"), int, "x: it is a float; a value of kind INTEGER is due"),
        ("no list", 1, list[int], "x: it is a int; a list is due"),
        ("wrong inside", ["a"], list[int], "x[0]: it is a str"),
        ("none of the union", b"a", Optional[int], "x: a bytes fits none of the union's types"),
        ("none of the enum", "blue", Colour, "x: it is none of red"),
        ("no time there is", datetime.min.replace(tzinfo=timezone(timedelta(hours=1))), None, "outside the years 1 to 9999"),
    ],
)
def test_cannot_be_written(reason: str, value: Any, type_: Any, says: str) -> None:
    with pytest.raises(Invalid) as e:
        encode_outputs({"x": value}, {"x": literal_type(type_)} if type_ else None)
    assert says in str(e.value), reason


def test_outputs_of_all_kinds() -> None:
    want = {"literals": {"x": primitive("integer", "1"), "when": {"scalar": {"noneType": {}}}}}
    assert encode_outputs(Point(1)) == want
    assert encode_outputs(Literals(want["literals"])) == want
    assert encode_outputs({}) == {"literals": {}}
    with pytest.raises(Invalid, match="a dict, dataclass or model is due"):
        encode_outputs([1])
    with pytest.raises(Invalid, match="names are text"):
        encode_outputs({1: 1})


def test_types_of_outputs() -> None:
    assert variables_of(Point)["x"] == {"simple": "INTEGER"}
    assert variables_of(Typed) == {"a": {"simple": "INTEGER"}}
    assert variables_of(Model)["took"] == {"simple": "DURATION"}
    assert variables_of({"t": list[Point]}) == {"t": {"collectionType": {"simple": "STRUCT"}}}
    with pytest.raises(Invalid, match="x: .* is no type that Flyte has"):
        variables_of({"x": Loop})
    with pytest.raises(Invalid, match="no dataclass, model, TypedDict or mapping"):
        variables_of(int)


def test_same_value_same_bytes() -> None:
    assert encode({"b": 1, "a": 2}) == encode({"a": 2, "b": 1}), "Flyte's cache goes by the bytes"


def test_struct() -> None:
    assert encode_struct({"when": date(2026, 1, 1), "raw": b"x", 1: (1,)}) == {"when": "2026-01-01", "raw": "eA==", "1": [1]}
    for bad in (float("nan"), 1 << 2000):
        with pytest.raises(Invalid):
            encode_struct({"x": bad})
    with pytest.raises(Invalid, match="a dict, dataclass or model is due"):
        encode_struct([1])


def test_errors_show_nothing_of_values() -> None:
    with pytest.raises(Invalid) as e:
        encode_outputs({"x": "hunter2"}, {"x": {"simple": "INTEGER"}})
    assert "hunter2" not in str(e.value)
    assert json.dumps(str(e.value))
