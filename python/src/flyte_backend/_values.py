"""Flyte's literals as Python values, and back. Literals are in protobuf's JSON form, as :mod:`._protojson` leaves them."""

from __future__ import annotations

import base64
import collections.abc
import dataclasses
import enum
import math
import types
import typing
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import PurePath
from typing import Any
from uuid import UUID

import msgpack
from pydantic import BaseModel

from ._protojson import Invalid, Json, check_message, decode_bytes, duration, timestamp
from ._types import Binary, Blob, Dataset, Offloaded, Schema, TaskFailure

MAX_DEPTH = 100


class Literals(dict[str, Any]):
    """Literals by name, as they are on the wire: protobuf's JSON form. As outputs they go out as they are."""


# ---- literals to Python


def decode_literals(literals: Mapping[str, Json]) -> dict[str, Any]:
    """Python values of literals. Raises :class:`Invalid`, which names the value that is wrong and shows nothing of it."""
    out = {}
    for name, literal in literals.items():
        try:
            out[name] = decode(literal)
        except Invalid as e:
            e.place.append(name)
            raise
        except RecursionError:
            raise Invalid(f"{name} nests too deep") from None
    return out


def decode(literal: Json) -> Any:
    if "collection" in literal:
        out = []
        for i, item in enumerate(literal["collection"].get("literals", ())):
            try:
                out.append(decode(item))
            except Invalid as e:
                e.place.append(f"[{i}]")
                raise
        return out
    if "map" in literal:
        return decode_literals(literal["map"].get("literals", {}))
    if "offloadedMetadata" in literal:
        stored = literal["offloadedMetadata"]
        return Offloaded(stored.get("uri", ""), int(stored.get("sizeBytes", 0)))
    return _scalar(literal.get("scalar", {}))


def _scalar(scalar: Json) -> Any:
    if not scalar:
        raise Invalid("it is an empty literal")
    (kind, value), *_ = scalar.items()
    match kind:
        case "primitive":
            return _primitive(value)
        case "union":
            return decode(value.get("value", {}))
        case "noneType":
            return None
        case "generic":
            return wholes(value)
        case "binary":
            raw = decode_bytes(value.get("value", ""))
            match value.get("tag", ""):
                case "":
                    return raw
                case "msgpack":
                    return unpack(raw)
                case tag:
                    return Binary(raw, tag)
        case "blob":
            kind_of = value.get("metadata", {}).get("type", {})
            return Blob(value.get("uri", ""), kind_of.get("format", ""), kind_of.get("dimensionality") == "MULTIPART")
        case "structuredDataset":
            table = value.get("metadata", {}).get("structuredDatasetType", {})
            columns = tuple((c.get("name", ""), c.get("literalType", {})) for c in table.get("columns", ()))
            return Dataset(value.get("uri", ""), table.get("format", ""), columns)
        case "schema":
            return Schema(value.get("uri", ""), value.get("type", {}))
        case _:
            return TaskFailure(value.get("failedNodeId", ""), value.get("message", ""))


def _primitive(primitive: Json) -> Any:
    if not primitive:
        raise Invalid("it is an empty literal")
    (kind, value), *_ = primitive.items()
    match kind:
        case "integer":
            return int(value)
        case "floatValue":
            return float(value)
        case "datetime":
            try:
                return timestamp(value).astimezone(timezone.utc)
            except OverflowError:  # the first or the last day there is, in another zone
                raise Invalid("it is a time outside the years 1 to 9999") from None
        case "duration":
            whole, nanos = duration(value)
            return timedelta(seconds=whole, microseconds=int(nanos / 1000))
        case _:
            return value


def unpack(raw: bytes) -> Any:
    """The value of MessagePack, which is how flytekit writes dataclasses, models and dicts."""
    try:
        return msgpack.unpackb(raw, raw=False, strict_map_key=False, timestamp=3)
    except Exception as e:  # the package has no base class for them, and this comes over the network
        raise Invalid("it is no valid MessagePack") from e


def wholes(value: Json) -> Any:
    """Whole numbers as int: protobuf's Struct has floats only, and does not tell."""
    if isinstance(value, dict):
        return {key: wholes(item) for key, item in value.items()}
    if isinstance(value, list):
        return [wholes(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        return int(value)
    return value


# ---- Python to literals


def encode_outputs(outputs: object, variables: Mapping[str, Json] | None = None) -> dict[str, Json]:
    """A LiteralMap of a mapping, dataclass or model. ``variables`` are Flyte types by name, for those that are known."""
    if isinstance(outputs, Literals):
        return check_message("flyteidl.core.LiteralMap", {"literals": dict(outputs)})
    if isinstance(outputs, Mapping):
        values = dict(outputs)
    elif isinstance(outputs, BaseModel):
        values = {name: getattr(outputs, name) for name in type(outputs).model_fields}
    elif dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        values = {field.name: getattr(outputs, field.name) for field in dataclasses.fields(outputs)}
    else:
        raise Invalid(f"they are a {type(outputs).__name__}; a dict, dataclass or model is due")
    literals = {}
    for name, value in values.items():
        if not isinstance(name, str):
            raise Invalid(f"one is called {name!r}; names are text")
        try:
            literals[name] = encode(value, (variables or {}).get(name))
        except Invalid as e:
            e.place.append(name)
            raise
        except RecursionError:
            raise Invalid(f"{name} nests too deep") from None
    return {"literals": literals}


def scalar(kind: str, value: Json) -> Json:
    return {"scalar": {kind: value}}


def primitive(kind: str, value: Json) -> Json:
    return scalar("primitive", {kind: value})


def encode(value: Any, type_: Json = None) -> Json:
    """The literal of a value: of the Flyte type that is given, else of the one that the value suggests."""
    if type_:
        return _encode_as(_plain(value), type_)
    value = _plain(value)
    match value:
        case None:
            return scalar("noneType", {})
        case bool():
            return primitive("boolean", value)
        case int():
            if not -(1 << 63) <= value < 1 << 63:
                raise Invalid("it is an integer of more than 64 bits")
            return primitive("integer", str(value))
        case float():
            return primitive("floatValue", _float(value))
        case str():
            return primitive("stringValue", _utf8(value))
        case datetime():
            return primitive("datetime", _datetime(value))
        case date():
            return primitive("datetime", _datetime(datetime(value.year, value.month, value.day, tzinfo=timezone.utc)))
        case timedelta():
            return primitive("duration", _duration(value))
        case bytes() | bytearray():
            return scalar("binary", {"value": base64.b64encode(value).decode()})
        case Binary():
            return scalar("binary", {"value": base64.b64encode(value.value).decode(), "tag": value.tag})
        case Blob():
            dimension = "MULTIPART" if value.folder else "SINGLE"
            return scalar(
                "blob", {"uri": value.uri, "metadata": {"type": {"format": value.format, "dimensionality": dimension}}}
            )
        case Dataset():
            columns = [{"name": name, "literalType": dict(of)} for name, of in value.columns]
            table = {"format": value.format, "columns": columns}
            return scalar("structuredDataset", {"uri": value.uri, "metadata": {"structuredDatasetType": table}})
        case Schema():
            return scalar("schema", {"uri": value.uri, "type": dict(value.type)})
        case TaskFailure():
            return scalar("error", {"failedNodeId": value.failed_node, "message": value.message})
        case list() | tuple():
            return _collection(value, None)
        case _:
            return _structure(value)


def _plain(value: Any) -> Any:
    """Enums and numpy's scalars are what they hold."""
    if isinstance(value, enum.Enum):
        return value.value
    if not isinstance(value, (str, bytes)) and type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return value


def _float(value: float) -> Json:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _utf8(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Invalid("it is text that is no Unicode") from None
    return value


def _datetime(value: datetime) -> str:
    if value.tzinfo is None:
        value = value.replace(tzinfo=timezone.utc)
    try:
        return value.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    except OverflowError:
        raise Invalid("it is a time outside the years 1 to 9999") from None


def _duration(value: timedelta) -> str:
    micros = (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds
    whole, rest = divmod(abs(micros), 1_000_000)
    if whole > 315_576_000_000:
        raise Invalid("it is a duration of more than 10,000 years")
    return f"{'-' if micros < 0 else ''}{whole}{f'.{rest:06}' if rest else ''}s"


def _collection(values: Sequence[Any], type_: Json) -> Json:
    out = []
    for i, item in enumerate(values):
        try:
            out.append(encode(item, type_))
        except Invalid as e:
            e.place.append(f"[{i}]")
            raise
    return {"collection": {"literals": out}}


def _structure(value: Any) -> Json:
    try:
        packed: bytes = msgpack.packb(flatten(value, 0))
    except (OverflowError, ValueError) as e:
        if isinstance(e, Invalid):
            raise
        raise Invalid("it holds a number of more than 64 bits") from e
    return scalar("binary", {"value": base64.b64encode(packed).decode(), "tag": "msgpack"})


def flatten(value: Any, depth: int = 0) -> Any:
    """A dataclass, model or dict as what JSON and MessagePack have. Keys are sorted: Flyte's cache goes by the bytes."""
    if depth > MAX_DEPTH:
        raise Invalid("it nests too deep")
    value = _plain(value)
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return _utf8(value)
        case bytes() | bytearray():
            return bytes(value)
        case datetime() | date():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case UUID() | Decimal() | PurePath():
            return str(value)
        case Blob() | Dataset() | Schema() | Binary() | TaskFailure() | Offloaded():
            raise Invalid(f"a {type(value).__name__} is no part of a structure")
        case BaseModel():
            items: Mapping[Any, Any] = value.model_dump()
        case Mapping():
            items = value
        case list() | tuple() | set() | frozenset():
            return [flatten(item, depth + 1) for item in value]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            items = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        case _:
            raise Invalid(f"no literal can be made of a {type(value).__name__}")
    out = {}
    for key in sorted(items, key=str):
        try:
            out[key if isinstance(key, (str, int)) else str(key)] = flatten(items[key], depth + 1)
        except Invalid as e:
            e.place.append(str(key))
            raise
    return out


def encode_struct(value: Any) -> dict[str, Json]:
    """A dict, dataclass or model as protobuf's Struct."""
    flat = flatten(value)
    if not isinstance(flat, dict):
        raise Invalid(f"it is a {type(value).__name__}; a dict, dataclass or model is due")
    out: dict[str, Json] = _jsonable(flat)
    return out


def _jsonable(value: Any) -> Json:
    match value:
        case dict():
            return {str(key): _jsonable(item) for key, item in value.items()}
        case list():
            return [_jsonable(item) for item in value]
        case bytes():
            return base64.b64encode(value).decode()
        case float() if not math.isfinite(value):
            raise Invalid("it holds a number that is not finite")
        case int() if abs(value) >= 1 << 1000:
            raise Invalid("it holds a number that is too large")
        case _:
            return value


def _encode_as(value: Any, type_: Json) -> Json:
    match type_:
        case {"simple": kind}:
            return _simple(value, kind)
        case {"collectionType": of}:
            if isinstance(value, (list, tuple)):
                return _collection(value, of)
            raise _mismatch(value, "a list")
        case {"mapValueType": of}:
            if isinstance(value, Mapping):
                return {"map": encode_outputs(value, dict.fromkeys(value, of))}
            raise _mismatch(value, "a dict")
        case {"enumType": of}:
            if value in of.get("values", ()):
                return primitive("stringValue", value)
            raise Invalid(f"it is none of {', '.join(of.get('values', ()))}")
        case {"unionType": of}:
            for variant in of.get("variants", ()):
                try:
                    return scalar("union", {"value": _encode_as(value, variant), "type": variant})
                except Invalid:
                    continue
            raise Invalid(f"a {type(value).__name__} fits none of the union's types")
        case {"blob": of}:
            if isinstance(value, (str, PurePath)):
                value = Blob(str(value), of.get("format", ""), of.get("dimensionality") == "MULTIPART")
            return _exactly(value, Blob)
        case {"structuredDatasetType": of}:
            return _exactly(Dataset(value, of.get("format", "")) if isinstance(value, str) else value, Dataset)
        case {"schema": _}:
            return _exactly(value, Schema)
        case _:
            return encode(value)


def _mismatch(value: Any, due: str) -> Invalid:
    return Invalid(f"it is a {type(value).__name__}; {due} is due")


def _exactly(value: Any, kind: type) -> Json:
    if not isinstance(value, kind):
        raise _mismatch(value, f"a {kind.__name__}")
    return encode(value)


_KINDS: dict[str, type | tuple[type, ...]] = {
    "STRING": str,
    "BOOLEAN": bool,
    "DATETIME": date,
    "DURATION": timedelta,
    "BINARY": (bytes, bytearray, Binary),
    "NONE": type(None),
    "ERROR": TaskFailure,
}


def _simple(value: Any, kind: str) -> Json:
    if kind == "STRUCT":
        return _structure(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if kind == "FLOAT":
            return encode(float(value))
        if kind == "INTEGER" and float(value).is_integer():
            return encode(int(value))
    if not isinstance(value, _KINDS.get(kind, ())):
        raise _mismatch(value, f"a value of kind {kind}")
    return encode(value)


# ---- Python types to Flyte's


def variables_of(declared: Any) -> dict[str, Json]:
    """Flyte types by name of a dataclass, model, TypedDict, or mapping of names to types. Raises :class:`Invalid`."""
    if isinstance(declared, Mapping):
        hints = dict(declared)
    elif isinstance(declared, type) and (
        dataclasses.is_dataclass(declared) or issubclass(declared, BaseModel) or typing.is_typeddict(declared)
    ):
        hints = typing.get_type_hints(declared)
        if issubclass(declared, BaseModel):
            hints = {name: hints[name] for name in declared.model_fields}
    else:
        raise Invalid(f"{declared!r} is no dataclass, model, TypedDict or mapping of names to types")
    out = {}
    for name, hint in hints.items():
        try:
            out[name] = literal_type(hint)
        except Invalid as e:
            e.place.append(str(name))
            raise
    return out


_SIMPLE: dict[Any, Json] = {
    int: {"simple": "INTEGER"},
    float: {"simple": "FLOAT"},
    str: {"simple": "STRING"},
    bool: {"simple": "BOOLEAN"},
    datetime: {"simple": "DATETIME"},
    date: {"simple": "DATETIME"},
    timedelta: {"simple": "DURATION"},
    bytes: {"simple": "BINARY"},
    type(None): {"simple": "NONE"},
    dict: {"simple": "STRUCT"},
    Binary: {"simple": "BINARY"},
    TaskFailure: {"simple": "ERROR"},
    Blob: {"blob": {}},
    Dataset: {"structuredDatasetType": {}},
    Schema: {"schema": {}},
    Any: None,
}


def literal_type(hint: Any) -> Json:
    """The Flyte type of a Python type; None for Any, whose values tell it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return literal_type(args[0])
    if origin in (typing.Union, types.UnionType):
        return {"unionType": {"variants": [literal_type(arg) for arg in args]}}
    if origin in (list, tuple, collections.abc.Sequence) and args:
        return {"collectionType": literal_type(args[0])}
    if origin in (dict, collections.abc.Mapping):
        return {"simple": "STRUCT"} if args[1] is Any else {"mapValueType": literal_type(args[1])}
    try:
        if hint in _SIMPLE:
            return _SIMPLE[hint]
    except TypeError:
        pass
    if isinstance(hint, type):
        if issubclass(hint, enum.Enum):
            return {"enumType": {"values": [str(member.value) for member in hint]}}
        if issubclass(hint, BaseModel) or dataclasses.is_dataclass(hint) or typing.is_typeddict(hint):
            return {"simple": "STRUCT"}
    raise Invalid(f"{hint!r} is no type that Flyte has")
