"""Statements with inputs: placeholders become bind variables, values become what Snowflake's SQL API takes for them.

flytekit's connector hands statement and inputs to Snowflake's Python connector, which writes the values into the text. Here
they travel apart from it, so no value can be taken for SQL.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from ..._errors import UserError

Binding = dict[str, str]

# What can stand in a statement, as far as placeholders are concerned. What has no end goes to the statement's end, so that no
# text takes more than one pass. https://docs.snowflake.com/en/sql-reference/data-types-text has the literals. Two slashes
# begin a comment too.
_PART = re.compile(
    r"""
    (?P<text>'(?:[^'\\]|''|\\(?:.|\Z))*(?:'|\Z) | \$\$.*?(?:\$\$|\Z))
  | (?P<skip>"[^"]*(?:"|\Z) | --[^\n]* | //[^\n]* | /\*.*?(?:\*/|\Z))
  | %\((?P<pyformat>[^()\s]{1,255})\)s
  | \{\{\s*\.?inputs\.(?P<template>\w{1,255})\s*\}\}
  | (?P<percent>%%)
  | (?P<mark>\?)
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_IN_TEXT = re.compile(r"\{\{\s*\.?inputs\.(\w{1,255})\s*\}\}|(%%)", re.IGNORECASE)

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Statement:
    """A statement as the API takes it: ``bindings`` are by position, from "1" on."""

    text: str
    bindings: dict[str, Binding]


def bind(statement: str, inputs: Mapping[str, Any]) -> Statement:
    """Put bind variables in the place of placeholders: ``%(name)s``, and ``{{ .inputs.name }}``.

    Nothing in literals, quoted names and comments is a placeholder. A statement of a task with inputs has ``%%`` for ``%``, and
    one of a task without them is not looked into, as with flytekit's connector. Raises :class:`UserError`, which names the
    input, for a value or a placeholder that cannot be bound.
    """
    if not inputs:
        return Statement(statement, {})
    bindings: dict[str, Binding] = {}

    def value(name: str) -> str:
        if name not in inputs:
            raise UserError(f"the statement takes input {name!r}, which the task does not have; it has {_names(inputs)}")
        variables = []
        for one in _variables(inputs[name], name):
            if one is None:
                variables.append("NULL")  # the API's bind variables are text
            else:
                bindings[str(len(bindings) + 1)] = one
                variables.append("?")
        return ", ".join(variables)

    def in_text(match: re.Match[str]) -> str:
        if match[2]:
            return "%"
        raise UserError(
            f"input {match[1]!r} stands inside of a text literal of the statement, where nothing is put in; "
            "take the quotes away: the value is bound with its own type"
        )

    def part(match: re.Match[str]) -> str:
        if match["text"] is not None:
            return _IN_TEXT.sub(in_text, match["text"])
        if match["skip"] is not None:
            return match["skip"].replace("%%", "%")
        if match["percent"] is not None:
            return "%"
        if match["mark"] is not None:
            raise UserError("the statement has a ? of its own; inputs are taken by name, as %(name)s")
        return value(match["pyformat"] or match["template"])

    return Statement(_PART.sub(part, statement), bindings)


def _names(inputs: Mapping[str, Any]) -> str:
    return ", ".join(sorted(inputs))


def _variables(value: Any, name: str) -> list[Binding | None]:
    """A list is its items, one by one, as flytekit's connector has it: ``id IN (%(ids)s)``."""
    if not isinstance(value, (list, tuple)):
        return [_variable(value, name)]
    if not value:
        raise UserError(f"input {name!r} is an empty list, which leaves nothing to put into the statement")
    return [_variable(item, f"{name}[{i}]") for i, item in enumerate(value)]


def _variable(value: Any, name: str) -> Binding | None:
    """The types are of https://docs.snowflake.com/en/developer-guide/sql-api/submitting-requests; values are text."""
    match value:
        case None:
            return None
        case bool():
            return {"type": "BOOLEAN", "value": "true" if value else "false"}
        case Enum():
            return _variable(value.value, name)
        case int():
            return {"type": "FIXED", "value": str(value)}
        case float():
            if not math.isfinite(value):
                raise UserError(
                    f"input {name!r} is {value}, which Snowflake's SQL API cannot bind; pass a finite number, or text"
                )
            return {"type": "REAL", "value": repr(value)}
        case str():
            return {"type": "TEXT", "value": value}
        case bytes():
            return {"type": "BINARY", "value": value.hex()}
        case datetime():
            # As text it goes into columns of all three kinds of timestamp with the right moment. TIMESTAMP_TZ does not go into
            # one without a time zone, and TIMESTAMP_NTZ and _LTZ change the moment in sessions whose time zone is not UTC.
            return {"type": "TEXT", "value": _timestamp(value)}
        case timedelta():
            if not timedelta() <= value < _DAY:
                raise UserError(
                    f"input {name!r} is a duration of {value}, and Snowflake's TIME ends at 24 hours; "
                    "pass its seconds as a number"
                )
            return {"type": "TIME", "value": str(value // timedelta(microseconds=1) * 1000)}
        case dict() | list() | tuple():
            try:
                text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=lambda item: _in_json(item, name))
            except (ValueError, RecursionError) as e:
                raise UserError(f"input {name!r} cannot be written as JSON: {e}") from e
            return {"type": "TEXT", "value": text}
        case _:
            raise UserError(f"input {name!r} is a {type(value).__name__}, which cannot be a value of a statement")


def _timestamp(value: datetime) -> str:
    return value.isoformat(" ", "microseconds")


def _in_json(value: Any, name: str) -> Any:
    match value:
        case datetime():
            return _timestamp(value)
        case timedelta():
            return value.total_seconds()
        case _:
            raise UserError(f"input {name!r} holds a {type(value).__name__}, which cannot be written as JSON")
