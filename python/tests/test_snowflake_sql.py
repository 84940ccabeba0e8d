"""Statements and inputs of Snowflake tasks, and the form of accounts."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from flyte_backend import Blob, ConfigurationError, Dataset, PermissionDenied, UserError
from flyte_backend.plugins.snowflake._account import Accounts, console, issuer
from flyte_backend.plugins.snowflake._settings import identifier, settings_of
from flyte_backend.plugins.snowflake._sql import bind

UTC = timezone.utc


def test_names_become_variables_by_their_order() -> None:
    bound = bind("select %(b)s, %(a)s, %(b)s", {"a": 1, "b": "x", "unused": None})
    assert bound.text == "select ?, ?, ?"
    text, number = {"type": "TEXT", "value": "x"}, {"type": "FIXED", "value": "1"}
    assert bound.bindings == {"1": text, "2": number, "3": text}


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        ("select '%(n)s', %(n)s", "select '%(n)s', ?"),
        ("select 'it''s %(n)s', %(n)s", "select 'it''s %(n)s', ?"),
        (r"select 'it\'s %(n)s', %(n)s", r"select 'it\'s %(n)s', ?"),
        ("select $$ ' %(n)s $$, %(n)s", "select $$ ' %(n)s $$, ?"),
        ('select 1 as "%(n)s ?", %(n)s', 'select 1 as "%(n)s ?", ?'),
        ('select 1 as "a""%(n)s", %(n)s', 'select 1 as "a""%(n)s", ?'),
        ("select %(n)s -- ' %(n)s ?", "select ? -- ' %(n)s ?"),
        ("select %(n)s // ' %(n)s\n, %(n)s", "select ? // ' %(n)s\n, ?"),
        ("select /* ' %(n)s ? */ %(n)s", "select /* ' %(n)s ? */ ?"),
        ("select '?', a:b::int, 7 %% %(n)s", "select '?', a:b::int, 7 % ?"),
        ("select x from t where x like 'a%%' and n = %(n)s", "select x from t where x like 'a%' and n = ?"),
        ("select x from t where x like 'a%' and n = %(n)s", "select x from t where x like 'a%' and n = ?"),
        ("select {{ .inputs.n }}, {{.Inputs.n}}", "select ?, ?"),
        ("select %(n)s, 'no end %(n)s", "select ?, 'no end %(n)s"),
        ("select %(n)s /* no end %(n)s", "select ? /* no end %(n)s"),
        ("select -%(n)s-%(n)s / %(n)s", "select -?-? / ?"),
    ],
)
def test_placeholders_are_found_where_sql_has_values(statement: str, text: str) -> None:
    bound = bind(statement, {"n": 7})
    assert bound.text == text
    assert len(bound.bindings) == text.count("?") - statement.count("?") > 0


def test_without_inputs_a_statement_stays_as_it_is() -> None:
    for statement in ("select '%%', 7 %% 2, ?", "select %(n)s"):
        assert bind(statement, {}).text == statement


def test_a_hostile_statement_takes_one_pass() -> None:
    for piece in ("/*", "'", "''", '"', "$$", "%(", "{{ ", "{{.inputs.", "\\'", "%(x"):
        bind(piece * 50_000 + "x", {"n": 1})


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (-(1 << 63), "FIXED", "-9223372036854775808"),
        (True, "BOOLEAN", "true"),
        (False, "BOOLEAN", "false"),
        (0.1, "REAL", "0.1"),
        (1e300, "REAL", "1e+300"),
        ("it's ? %(n)s", "TEXT", "it's ? %(n)s"),
        (b"\x00\xff", "BINARY", "00ff"),
        (datetime(2026, 2, 3, 4, 5, 6, 7, UTC), "TEXT", "2026-02-03 04:05:06.000007+00:00"),
        (datetime(1, 1, 1, tzinfo=UTC), "TEXT", "0001-01-01 00:00:00.000000+00:00"),
        (timedelta(hours=1, microseconds=1), "TIME", "3600000001000"),
        ({"a": [1, None], "ü": True}, "TEXT", '{"a": [1, null], "ü": true}'),
    ],
)
def test_types(value: Any, kind: str, text: str) -> None:
    assert bind("%(v)s", {"v": value}).bindings == {"1": {"type": kind, "value": text}}


def test_none_is_null() -> None:
    assert bind("%(v)s", {"v": None}) == bind("NULL", {})


def test_a_list_is_its_items() -> None:
    bound = bind("select * from t where id in (%(ids)s) and n = %(n)s", {"ids": [3, None, "x"], "n": 1})
    assert bound.text == "select * from t where id in (?, NULL, ?) and n = ?"
    assert [bound.bindings[str(i)]["value"] for i in (1, 2, 3)] == ["3", "x", "1"]


def test_structures_in_lists_are_json() -> None:
    when = datetime(2026, 1, 1, tzinfo=UTC)
    bound = bind("%(v)s", {"v": [{"when": when, "took": timedelta(seconds=1.5)}, [1, 2]]})
    read = [json.loads(bound.bindings[str(i)]["value"]) for i in (1, 2)]
    assert read == [{"when": "2026-01-01 00:00:00.000000+00:00", "took": 1.5}, [1, 2]]


@pytest.mark.parametrize(
    ("statement", "inputs", "message"),
    [
        ("%(m)s", {"n": 1}, "takes input 'm', which the task does not have; it has n"),
        ("%(n)s, ?", {"n": 1}, r"a \? of its own"),
        ("'{{ .inputs.n }}'", {"n": 1}, "take the quotes away"),
        ("%(n)s", {"n": []}, "input 'n' is an empty list"),
        ("%(n)s", {"n": float("nan")}, "input 'n' is nan"),
        ("%(n)s", {"n": [1.0, float("inf")]}, r"input 'n\[1\]' is inf"),
        ("%(n)s", {"n": {"x": float("nan")}}, "input 'n' cannot be written as JSON"),
        ("%(n)s", {"n": {"x": b""}}, "input 'n' holds a bytes"),
        ("%(n)s", {"n": timedelta(days=1)}, "input 'n' is a duration of 1 day"),
        ("%(n)s", {"n": timedelta(seconds=-1)}, "ends at 24 hours"),
        ("%(n)s", {"n": Blob("s3://b/f")}, "input 'n' is a Blob"),
        ("%(n)s", {"n": Dataset("s3://b/t")}, "input 'n' is a Dataset"),
    ],
)
def test_what_cannot_be_bound_is_named(statement: str, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        bind(statement, inputs)


# ---- settings


def test_names_are_as_show_tells_them() -> None:
    for name, due in {"wh": "WH", "Db_1$": "DB_1$", '"Mixed"': "Mixed", '"a""b"': 'a"b', "a-b": "a-b", "": ""}.items():
        assert identifier(name) == due


def test_settings_go_into_the_request() -> None:
    config = {"account": "a", "user": "u", "role": "r", "timeout": "60", "multi_statement_count": "0", "query_tag": "t"}
    settings = settings_of(config)
    parameters = {"MULTI_STATEMENT_COUNT": "0", "QUERY_TAG": "t"}
    assert settings.body() == {"role": "R", "timeout": 60, "parameters": parameters} and settings.is_many
    assert settings_of({"account": "a", "user": "u"}).body() == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"account": ""}, "has no account"),
        ({"user": None}, "has no user"),
        ({"timeout": "1m"}, "timeout of the task's config is '1m'"),
        ({"timeout": -1}, "timeout of the task's config is '-1'"),
        ({"multi_statement_count": "9" * 10}, "multi_statement_count"),
    ],
)
def test_settings_that_are_wrong_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings_of({"account": "a", "user": "u", **change})


# ---- accounts


@pytest.mark.parametrize(
    ("account", "host", "name", "page"),
    [
        ("MyOrg-My_Account", "myorg-my-account.snowflakecomputing.com", "MYORG-MY_ACCOUNT", "myorg/my_account"),
        ("xy12345", "xy12345.snowflakecomputing.com", "XY12345", "us-west-2/xy12345"),
        ("xy12345.us-east-2.aws", "xy12345.us-east-2.aws.snowflakecomputing.com", "XY12345", "us-east-2.aws/xy12345"),
        ("o-a.privatelink", "o-a.privatelink.snowflakecomputing.com", "O-A", "o/a"),
        ("o1.cn-northwest-1", "o1.cn-northwest-1.snowflakecomputing.cn", "O1", "cn-northwest-1/o1"),
    ],
)
def test_accounts(account: str, host: str, name: str, page: str) -> None:
    assert Accounts().url(account) == f"https://{host}"
    assert issuer(account) == name
    assert console(account, "01-a") == f"https://app.snowflake.com/{page}/#/compute/history/queries/01-a/detail"


def test_a_replicated_account_s_name_has_an_id_that_tokens_leave_out() -> None:
    assert issuer("ab-x9.global") == "AB"


@pytest.mark.parametrize(
    "account",
    [
        *(
            "",
            ".",
            "-",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a-",
            "a/b",
            "a\\b",
            "a:443",
            "a@b",
            "a#",
            "a?b",
            "a b",
            "a\n",
            "ä",
            "\u212a",
            "%61",
        ),
        *("evil.example/x", "evil.example:1", "user@evil.example", "a.b.c.d.e", "x" * 64, "a.snowflakecomputing.com"),
        *("a.SNOWFLAKECOMPUTING.COM", "a\x00", "{account}", "１２"),
    ],
)
def test_what_is_no_account_names_no_host(account: str) -> None:
    with pytest.raises(UserError, match="account"):
        Accounts().url(account)


def test_the_operator_chooses_host_and_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Accounts("{account}.proxy.example:8443").url("O-A_B") == "https://o-a-b.proxy.example:8443"
    monkeypatch.setenv("FLYTE_SNOWFLAKE_HOST", "one.example")
    monkeypatch.setenv("FLYTE_SNOWFLAKE_ACCOUNTS", "o-a, xy12345")
    assert Accounts().url("O-A") == "https://one.example"
    with pytest.raises(PermissionDenied, match="does not serve account o-b"):
        Accounts().url("o-b")
    for host in ("https://x.example", "x.example/path", "u@x.example", "{user}.example", "x.example:"):
        with pytest.raises(ConfigurationError, match="FLYTE_SNOWFLAKE_HOST"):
            Accounts(host)
