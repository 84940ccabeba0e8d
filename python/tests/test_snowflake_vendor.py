"""The Snowflake plugin and Snowflake's own Python connector, which flytekit's uses, write the same things the same way."""

from __future__ import annotations

import warnings
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flyte_backend import Secrets
from flyte_backend.plugins.snowflake._account import Accounts
from flyte_backend.plugins.snowflake._auth import Credentials
from flyte_backend.plugins.snowflake._sql import bind

with warnings.catch_warnings():  # its own, and those of what it imports
    warnings.simplefilter("ignore")
    from snowflake.connector.auth import AuthByKeyPair
    from snowflake.connector.converter import SnowflakeConverter
    from snowflake.connector.util_text import construct_hostname

ACCOUNTS = ["xy12345", "myorg-my_account", "xy12345.us-east-2.aws", "my-acc-x9.global", "xy12345.cn-northwest-1"]


@pytest.mark.parametrize("account", ACCOUNTS)
def test_tokens_say_the_same(account: str, tmp_path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (tmp_path / "snowflake").mkdir()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "snowflake" / "private_key").write_bytes(pem)
    headers = Credentials().headers(Secrets(folder=tmp_path), account, "me@example.com")
    assert headers["X-Snowflake-Authorization-Token-Type"] == "KEYPAIR_JWT"
    vendor_s = AuthByKeyPair(private_key=key).prepare(account=account, user="me@example.com")
    ours, theirs = (
        jwt.decode(token, key.public_key(), algorithms=["RS256"])
        for token in (headers["Authorization"].removeprefix("Bearer "), vendor_s)
    )
    assert (ours["iss"], ours["sub"]) == (theirs["iss"], theirs["sub"])
    assert ours.keys() == theirs.keys()


@pytest.mark.parametrize("account", ACCOUNTS)
def test_hosts_are_the_same(account: str) -> None:
    """But for the underscore, which Snowflake takes as a hyphen too."""
    assert Accounts().url(account) == "https://" + construct_hostname(None, account).replace("_", "-")


@pytest.mark.parametrize(
    "value",
    [7, -(1 << 63), 0.1, 1e300, True, False, "it's", b"\x00\xff", timedelta(hours=23, seconds=5, microseconds=7)],
)
def test_variables_are_the_same(value: Any) -> None:
    (binding,) = bind("%(v)s", {"v": value}).bindings.values()
    converter = SnowflakeConverter()
    kind = converter.snowflake_type(value) or ""
    assert binding == {"type": kind, "value": converter.to_snowflake_bindings(kind, value)}


def test_times_are_the_text_that_flytekit_s_connector_puts_in() -> None:
    when = datetime(2026, 2, 3, 4, 5, 6, 7, timezone.utc)
    (binding,) = bind("%(v)s", {"v": when}).bindings.values()
    assert binding == {"type": "TEXT", "value": SnowflakeConverter().to_snowflake(when)}


@pytest.mark.parametrize(
    "statement",
    [
        "select * from t where a = %(n)s and b in (%(many)s) and c like 'x%%' and d = %(text)s or %(n)s is null",
        "select 7 %% %(n)s, '%%(n)s'",
        "/* %% */ select %(none)s, %(yes)s",
    ],
)
def test_placeholders_are_the_same(statement: str) -> None:
    """What the connector would send is what comes of putting the variables into their places here."""
    inputs = {"n": 3, "many": [1, 2], "text": "it's", "none": None, "yes": True}
    converter = SnowflakeConverter()

    def literal(value: Any) -> Any:
        return converter.quote(converter.escape(converter.to_snowflake(value)))

    lists = {"many": converter.quote(["1", "2"])}
    theirs = statement % {name: lists.get(name) or literal(value) for name, value in inputs.items()}
    bound = bind(statement, inputs)
    literals: dict[str, Any] = {"FIXED": str, "TEXT": lambda text: literal(text), "BOOLEAN": str.upper}
    ours = bound.text
    for binding in bound.bindings.values():
        ours = ours.replace("?", literals[binding["type"]](binding["value"]), 1)
    assert ours.replace(", ", ",") == theirs.replace(", ", ",")
