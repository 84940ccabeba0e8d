"""What a task's template says of where and how its statement runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..._errors import UserError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")
_NEEDED = ("account", "user")


@dataclass(frozen=True)
class Settings:
    """``SnowflakeConfig`` of flytekit, as it stands in the template's config, and settings that a subclass of ``SnowflakeTask``
    can add by its ``get_config``, or a caller in ``custom``."""

    account: str
    user: str
    database: str = ""
    schema: str = ""
    warehouse: str = ""
    role: str = ""
    #: The statement's limit in seconds; None leaves it to the account.
    timeout: int | None = None
    #: How many statements the text has; 0 means any number.
    statements: int = 1
    query_tag: str = ""

    @property
    def is_many(self) -> bool:
        return self.statements != 1

    def body(self) -> dict[str, Any]:
        """The part of a request's body that they make."""
        places = {name: identifier(getattr(self, name)) for name in ("database", "schema", "warehouse", "role")}
        body: dict[str, Any] = {name: value for name, value in places.items() if value}
        if self.timeout is not None:
            body["timeout"] = self.timeout
        parameters = {}
        if self.is_many:
            parameters["MULTI_STATEMENT_COUNT"] = str(self.statements)
        if self.query_tag:
            parameters["QUERY_TAG"] = self.query_tag
        if parameters:
            body["parameters"] = parameters
        return body


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Raises :class:`UserError`, which names the setting that is missing or wrong. What it does not know it passes over."""
    for name in _NEEDED:
        if not config.get(name):
            raise UserError(f"the task's config has no {name}; SnowflakeConfig has it")
    timeout = _number(config, "timeout") if config.get("timeout") else None
    return Settings(
        account=str(config["account"]),
        user=str(config["user"]),
        timeout=timeout,
        statements=_number(config, "multi_statement_count") if config.get("multi_statement_count") else 1,
        **{name: str(config.get(name) or "") for name in ("database", "schema", "warehouse", "role", "query_tag")},
    )


def _number(config: Mapping[str, Any], name: str) -> int:
    text = str(config[name])
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise UserError(f"{name} of the task's config is {text!r}; a whole number, 0 or more, is due")
    return int(text)


def identifier(name: str) -> str:
    """A name as the API takes it, which is as SHOW tells it: it does not make upper case of plain names as SQL does, and as
    Snowflake's drivers have it. A name in double quotes stays as it is written."""
    if len(name) > 1 and name.startswith('"') and name.endswith('"'):
        return name[1:-1].replace('""', '"')
    return name.upper() if _NAME.fullmatch(name) else name
