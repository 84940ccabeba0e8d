"""flyteidl's messages in protobuf's JSON form, checked and put into one form without protobuf.

What a message looks like is read from the contract's JSON Schemas, which are generated from flyteidl's protocol buffers, so the
core of the package needs neither protobuf nor flyteidl. The one form: camelCase names, enums by name, 64-bit integers as text,
standard padded base64, no nulls and no fields that flyteidl does not have. ``google.protobuf.json_format`` takes it as it is.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import math
import re
from collections.abc import Callable
from datetime import datetime
from importlib import resources
from typing import Any

Json = Any
_Check = Callable[[Json], Json]

_REF = "#/components/schemas/"


class Invalid(ValueError):
    """A value is not what its type wants. ``place`` grows from the inside out."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        self.place: list[str] = []

    def __str__(self) -> str:
        place = ""
        for part in reversed(self.place):
            place += part if part.startswith("[") or not place else "." + part
        return f"{place}: {self.what}" if place else self.what


@functools.cache
def contract_text() -> bytes:
    """The contract, api/openapi.yaml, as JSON."""
    return resources.files("flyte_backend").joinpath("openapi.json").read_bytes()


@functools.cache
def contract() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(contract_text())
    return document


def check_message(name: str, value: Json) -> dict[str, Any]:
    """The message in its one form, such as ``check_message("flyteidl.core.LiteralMap", …)``. Raises :class:`Invalid`."""
    try:
        message: dict[str, Any] = _checker(name)(value)
    except RecursionError:
        raise Invalid("it nests too deep") from None
    return message


@functools.cache
def _checker(name: str) -> _Check:
    if name in _WELL_KNOWN:
        return _WELL_KNOWN[name]
    schema = contract()["components"]["schemas"][name]
    return _enum(schema) if "anyOf" in schema else _message(schema)


def _named(name: str) -> _Check:
    """The checker of a message that may lead to itself, found when it is first needed."""
    found: list[_Check] = []

    def check(value: Json) -> Json:
        if not found:
            found.append(_checker(name))
        return found[0](value)

    return check


def _kind(value: Json) -> str:
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "an array", dict: "an object"}
    return names.get(type(value), "something else")


def _message(schema: dict[str, Any]) -> _Check:
    fields: dict[str, tuple[str, _Check]] = {}
    for name, field in schema.get("properties", {}).items():
        entry = (name, _field(field))
        fields[name] = entry
        fields[re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() if name[0].islower() else name] = entry
    one_of = [group["required"][0] for group in schema.get("oneOf", ()) if "required" in group]

    def check(value: Json) -> Json:
        if not isinstance(value, dict):
            raise Invalid(f"it is {_kind(value)}; an object is due")
        out: dict[str, Json] = {}
        for key, item in value.items():
            field = fields.get(key)
            if field is None or item is None:
                continue
            name, checked = field
            if name in out:
                raise Invalid(f"{name} stands there twice")
            try:
                out[name] = checked(item)
            except Invalid as e:
                e.place.append(name)
                raise
        if one_of:
            given = [name for name in one_of if name in out]
            if len(given) > 1:
                raise Invalid(f"{given[0]} and {given[1]} exclude each other")
        return out

    return check


def _field(schema: dict[str, Any]) -> _Check:
    if "$ref" in schema:
        return _named(schema["$ref"].removeprefix(_REF))
    if "anyOf" in schema:  # of a message, or null, which has been left out by now
        return _field(next(s for s in schema["anyOf"] if s.get("type") != "null"))
    kind = schema["type"]
    kind = kind if isinstance(kind, str) else next(k for k in kind if k != "null")
    if kind == "string":
        return _text
    if kind == "boolean":
        return _boolean
    if kind == "array":
        return _list(_field(schema["items"]))
    return _map(_field(schema["additionalProperties"]))


def _text(value: Json) -> Json:
    if not isinstance(value, str):
        raise Invalid(f"it is {_kind(value)}; text is due")
    return value


def _boolean(value: Json) -> Json:
    if not isinstance(value, bool):
        raise Invalid(f"it is {_kind(value)}; true or false is due")
    return value


def _list(item: _Check) -> _Check:
    def check(value: Json) -> Json:
        if not isinstance(value, list):
            raise Invalid(f"it is {_kind(value)}; an array is due")
        out = []
        for i, one in enumerate(value):
            try:
                out.append(item(one))
            except Invalid as e:
                e.place.append(f"[{i}]")
                raise
        return out

    return check


def _map(item: _Check) -> _Check:
    def check(value: Json) -> Json:
        if not isinstance(value, dict):
            raise Invalid(f"it is {_kind(value)}; an object is due")
        out = {}
        for key, one in value.items():
            try:
                out[key] = item(one)
            except Invalid as e:
                e.place.append(json.dumps(key[:60]))
                raise
        return out

    return check


def _enum(schema: dict[str, Any]) -> _Check:
    names: list[str] = next(s["enum"] for s in schema["anyOf"] if s["type"] == "string")
    # Where the contract names the numbers, others are refused. flyteidl's enums count from 0.
    numbers: list[int] | None = next(s for s in schema["anyOf"] if s["type"] == "integer").get("enum")

    def check(value: Json) -> Json:
        if isinstance(value, str) and value in names:
            return value
        n = _whole(value)
        if n is not None and numbers is None:
            return names[n] if 0 <= n < len(names) else n
        if n is not None and numbers is not None and n in numbers:
            return names[numbers.index(n)]
        raise Invalid(f"it is {_shown(value)}, which is none of its values ({', '.join(names[:8])})")

    return check


def _shown(value: Json) -> str:
    return (
        json.dumps(value[:60])
        if isinstance(value, str)
        else str(value)[:60]
        if isinstance(value, (int, float))
        else _kind(value)
    )


def _whole(value: Json) -> int | None:
    """An integer; JSON has one kind of number, so 7.0 is one too."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, float) and value.is_integer() else None


_DIGITS = re.compile(r"-?(0|[1-9][0-9]{0,19})")


def _integer(least: int, most: int, as_text: bool) -> _Check:
    def check(value: Json) -> Json:
        n = int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else _whole(value)
        if n is None:
            raise Invalid(f"it is {_shown(value)}, which is no integer")
        if not least <= n <= most:
            raise Invalid(f"it is {n}, which is not from {least} to {most}")
        return str(n) if as_text else n

    return check


_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def _double(value: Json) -> Json:
    if value in ("NaN", "Infinity", "-Infinity"):
        return value
    if isinstance(value, str) and len(value) < 400 and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Invalid(f"it is {_shown(value)}, which is no number")
    try:
        n = float(value)
    except OverflowError:
        n = math.inf
    if not math.isfinite(n):
        raise Invalid("it is a number that is too large")
    return n


def _bytes(value: Json) -> Json:
    if not isinstance(value, str):
        raise Invalid(f"it is {_kind(value)}; base64 is due")
    return base64.b64encode(decode_bytes(value)).decode()


def decode_bytes(value: str) -> bytes:
    """Bytes in either alphabet of base64, with or without padding."""
    text = value.rstrip("=") if len(value) % 4 == 0 else value
    if len(value) - len(text) <= 2 and not ({"+", "/"} & set(text) and {"-", "_"} & set(text)):
        try:
            return base64.b64decode(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError):
            pass
    raise Invalid("it is no base64")


# A time or duration in protobuf's JSON form has up to nine digits after the point.
_TIMESTAMP = re.compile(
    r"(?!0000)([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9])(\.[0-9]{1,9})?(Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_DURATION = re.compile(r"([+-]?)([0-9]{0,12})(?:\.([0-9]{0,9}))?s")
_MAX_DURATION = 315_576_000_000


def timestamp(value: Json) -> datetime:
    """A time with its zone. Python's has microseconds: what is finer is cut off."""
    found = _TIMESTAMP.fullmatch(value) if isinstance(value, str) else None
    if found:
        day, fraction, zone = found.groups()
        micro = ((fraction or ".")[1:] + "000000")[:6]
        try:
            return datetime.fromisoformat(f"{day}.{micro}{'+00:00' if zone == 'Z' else zone}")
        except ValueError:
            pass
    raise Invalid(f"it is {_shown(value)}, which is no time as RFC 3339 has it")


def duration(value: Json) -> tuple[int, int]:
    """A duration as whole seconds and nanoseconds, of one sign."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found:
        sign, whole, fraction = found.groups()
        number = int(whole or 0)
        nanos = int(((fraction or "") + "000000000")[:9])
        if (whole or fraction is not None) and number <= _MAX_DURATION and not (number == _MAX_DURATION and nanos):
            return (-number, -nanos) if sign == "-" else (number, nanos)
    raise Invalid(f"it is {_shown(value)}, which is no duration such as 1.5s")


def _time(value: Json) -> Json:
    timestamp(value)
    return value


def _duration(value: Json) -> Json:
    duration(value)
    return value


def struct(value: Json) -> Json:
    """Any JSON object."""
    if not isinstance(value, dict):
        raise Invalid(f"it is {_kind(value)}; an object is due")
    return _any(value)


def _any(value: Json) -> Json:
    if isinstance(value, dict):
        return {key: _any(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_any(item) for item in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _double(value) if not isinstance(value, int) or abs(value) >= 1 << 53 else value
    return value


_WELL_KNOWN: dict[str, _Check] = {
    "google.protobuf.Struct": struct,
    "google.protobuf.Timestamp": _time,
    "google.protobuf.Duration": _duration,
    "protobuf.bytes": _bytes,
    "protobuf.double": _double,
    "protobuf.int32": _integer(-(1 << 31), (1 << 31) - 1, as_text=False),
    "protobuf.uint32": _integer(0, (1 << 32) - 1, as_text=False),
    "protobuf.int64": _integer(-(1 << 63), (1 << 63) - 1, as_text=True),
    "protobuf.uint64": _integer(0, (1 << 64) - 1, as_text=True),
}
