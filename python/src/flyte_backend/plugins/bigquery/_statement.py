"""The statement of a query, with parameters for flytekit's placeholders."""

from __future__ import annotations

import re
from collections.abc import Collection

from ..._errors import UserError

_PLACEHOLDER = re.compile(r"\{\{\s*\.inputs\.(\w+)\s*\}\}", re.IGNORECASE)

# What quotes and comments span, and placeholders outside of them.
_TOKENS = re.compile(
    r"""
    (?P<quoted> '''(?:\\.|.)*?''' | \"\"\"(?:\\.|.)*?\"\"\" | '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" | `(?:\\.|[^`\\])*` )
    | (?P<comment> --[^\n]* | \#[^\n]* | /\*.*?\*/ )
    | (?P<placeholder> \{\{\s*\.inputs\.(?P<name>\w+)\s*\}\} )
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


def render(statement: str, inputs: Collection[str]) -> str:
    """``{{ .inputs.x }}`` becomes ``@x``, so a value is never part of the statement. flytekit leaves both as they are written.

    Raises :class:`UserError` for a placeholder of an input that the task has not, and for one where no parameter can stand."""

    def replace(match: re.Match[str]) -> str:
        quoted, name = match["quoted"], match["name"]
        if quoted is not None and (inside := _PLACEHOLDER.search(quoted)):
            what = "as the name of a table, nor as part of one" if quoted.startswith("`") else "inside of quotes"
            raise UserError(
                f"the query has {inside[0]} {what}, where BigQuery takes no parameter; "
                f"a parameter is a value by itself, @{inside[1]}",
                reason="BadStatement",
            )
        if name is None:
            return match[0]
        if name not in inputs:
            raise UserError(f"the query has {match[0]}, but the task has no input {name!r}", reason="BadStatement")
        return "@" + name

    return _TOKENS.sub(replace, statement)
