"""The Snowflake plugin, served, against a server that speaks the vendor's API and runs SQL (snowflake_server.py). Templates and
inputs are flytekit's own (snowflake_tasks.py)."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from flyte_backend import (
    BackendError,
    Dataset,
    FailedPrecondition,
    JobFailed,
    JobState,
    Overloaded,
    PermissionDenied,
    PluginError,
    Retry,
    Secrets,
    ServiceOptions,
    SystemError_,
    UserError,
)
from flyte_backend.client import Job
from flyte_backend.plugins.snowflake import SnowflakePlugin, _auth, _plugin
from flyte_backend.testing import RunningService, serve

from .conftest import PYTHON, Start, eventually
from .snowflake_server import ACCOUNT, USER, Answer, SnowflakeServer, running
from .snowflake_tasks import literals, template

UTC = timezone.utc
FOREVER = "with recursive c(n) as (select 1 union all select n + 1 from c) select count(*) from c"


@pytest.fixture(scope="module")
def the_server() -> Iterator[SnowflakeServer]:
    with running() as server, pytest.MonkeyPatch.context() as environment:
        for name, value in server.environment().items():
            environment.setenv(name, value)
        yield server


@pytest.fixture
def server(the_server: SnowflakeServer) -> SnowflakeServer:
    """The server as new, but for what is in its tables."""
    the_server.statements.clear()
    the_server.calls.clear()
    the_server.presented.clear()
    the_server.faults.clear()
    the_server.delay = 0.0
    return the_server


def options(**more: Any) -> ServiceOptions:
    return ServiceOptions(readiness_delay=0, drain_timeout=2, **more)


@pytest.fixture(scope="module")
def the_service(the_server: SnowflakeServer) -> Iterator[RunningService]:
    with serve(SnowflakePlugin(), options=options()) as service:
        yield service


@pytest.fixture
def service(the_service: RunningService, server: SnowflakeServer) -> RunningService:
    return the_service


def submit(service: RunningService, made: dict[str, Any], inputs: Any = None, key: str = "") -> Job:
    return service.client.submit("snowflake", inputs, template=made, idempotency_key=key)


def run(service: RunningService, made: dict[str, Any], inputs: Any = None) -> dict[str, Any]:
    return submit(service, made, inputs).result(20)


def rows(server: SnowflakeServer, outputs: dict[str, Any]) -> Any:
    """The result that a dataset's last part names, as flytekit's decoder looks it up."""
    handle = outputs["results"].uri.rpartition("/")[2]
    return server._by_handle[handle].rows


# ---- a task's life


def test_a_task_of_flytekit_runs(service: RunningService, server: SnowflakeServer) -> None:
    types = {"n": int}
    job = submit(service, template("select %(n)s * 6 as answer", types, output=True), literals(types, {"n": 7}))
    outputs = job.result(20)
    assert rows(server, outputs) == [(42,)]
    handle = server.statements[0].handle
    assert outputs == {"results": Dataset(f"snowflake://{USER}:{ACCOUNT}/wh/db/public/{handle}")}
    assert job.message == "1 rows" and job.custom_info == {"statement": handle, "warehouse": "wh"}
    page = f"https://app.snowflake.com/myorg/my_account/#/compute/history/queries/{handle}/detail"
    assert job.log_links == {"Snowflake Query Details": page}


def test_flytekit_finds_the_result_s_parts(service: RunningService) -> None:
    """The expression is the one by which flytekit's decoder takes the URI apart."""
    from flytekit.types.structured.snowflake import PROTOCOL_SEP

    uri = run(service, template("select 1", output=True))["results"].uri
    assert re.split(PROTOCOL_SEP, uri)[:-1] == ["snowflake", USER, ACCOUNT, "wh", "db", "public"]


def test_a_task_without_output_gives_none(service: RunningService, server: SnowflakeServer) -> None:
    server.sql("create table if not exists plain (n)")
    assert run(service, template("insert into plain values (1)")) == {}
    assert server.sql("select count(*) from plain") == [(1,)]


def test_values_of_all_types_arrive(service: RunningService, server: SnowflakeServer) -> None:
    types: dict[str, Any] = {
        **{"i": int, "f": float, "s": str, "b": bool, "t": datetime, "d": timedelta},
        **{"raw": str, "many": list[int], "struct": dict, "texts": list[str]},
    }
    values: dict[str, Any] = {
        **{"i": -(1 << 62), "f": 1.5, "s": "o'; drop table x; --", "b": True, "t": datetime(2026, 1, 2, 3, 4, 5, 6, UTC)},
        **{"d": timedelta(hours=23, microseconds=7), "many": [1, 2], "struct": {"a": [1, "x"]}, "texts": ["%(i)s", "?"]},
    }
    query = "select %(i)s, %(f)s, %(s)s, %(b)s, %(t)s, %(d)s, %(raw)s, %(many)s, parse_json(%(struct)s), %(texts)s, %(i)s"
    made, inputs = template(query, types, output=True), literals(types, values)
    # flytekit's bytes are files; those of other languages' tasks are not
    made["interface"]["inputs"]["variables"]["raw"]["type"] = {"simple": "BINARY"}
    inputs["raw"] = {"scalar": {"binary": {"value": base64.b64encode(b"\x00\xff").decode()}}}
    (found,) = rows(server, run(service, made, inputs))
    text = "o'; drop table x; --"
    due = (-(1 << 62), 1.5, text, 1, "2026-01-02 03:04:05.000006+00:00", "23:00:00.000007000", b"\x00\xff", 1, 2)
    assert found == (*due, '{"a": [1, "x"]}', "%(i)s", "?", -(1 << 62))


def test_none_arrives(service: RunningService, server: SnowflakeServer) -> None:
    types: dict[str, Any] = {"n": int | None}
    made = template("select %(n)s is null", types, output=True)
    assert rows(server, run(service, made, literals(types, {"n": None}))) == [(1,)]


def test_settings_arrive(service: RunningService, server: SnowflakeServer) -> None:
    query = "select current_database(), current_schema(), current_warehouse(), current_role()"
    made = template(query, output=True, config={"database": '"Mixed db"'}, role="analyst", query_tag="flyte", timeout="60")
    assert rows(server, run(service, made)) == [("Mixed db", "PUBLIC", "WH", "ANALYST")]
    body = server.statements[0].body
    assert body["timeout"] == 60 and body["parameters"] == {"QUERY_TAG": "flyte"}


def test_several_statements_give_the_last_result(service: RunningService, server: SnowflakeServer) -> None:
    made = template("create table if not exists many (n); select 5;", output=True, multi_statement_count="2")
    assert rows(server, run(service, made)) == [(5,)]


def test_several_statements_take_no_inputs(service: RunningService, server: SnowflakeServer) -> None:
    types = {"n": int}
    with pytest.raises(UserError, match="binds no variables in several"):
        submit(service, template("select 1; select %(n)s", types, multi_statement_count="0"), literals(types, {"n": 1}))
    assert not server.calls


def test_it_runs_until_it_is_done(service: RunningService, server: SnowflakeServer) -> None:
    server.delay = 0.5
    job = submit(service, template("select 1", output=True))
    assert job.poll() is JobState.RUNNING and "runs" in job.message and job.log_links
    job.result(20)


def test_served_as_operators_do(start: Start, server: SnowflakeServer) -> None:
    """By its module's name, in a process of its own."""
    from flyte_backend.client import BackendClient

    process = start("--plugins", "flyte_backend.plugins.snowflake", "--insecure")
    with BackendClient(process.url) as client:
        types = {"s": str}
        made = template("select %(s)s", types, output=True)
        job = client.submit("snowflake", literals(types, {"s": "grüße"}), template=made)
        assert rows(server, job.result(20)) == [("grüße",)]
    log = "".join(process.lines)
    assert server.presented and all(token.removeprefix("Bearer ") not in log for token in server.presented)


# ---- once


def test_a_create_that_comes_again_starts_nothing(server: SnowflakeServer) -> None:
    server.sql("create table if not exists once (n)")
    made = template("insert into once values (1)")
    with serve(SnowflakePlugin()) as one, serve(SnowflakePlugin()) as another:
        jobs = [submit(one, made, key="k"), submit(another, made, key="k"), submit(one, made, key="other")]
        jobs[1].result(20)
        again = submit(another, made, key="k")  # when it is done, too
        jobs[2].result(20)
    assert jobs[0].job_id == jobs[1].job_id == again.job_id != jobs[2].job_id
    assert len(server.statements) == 2 and server.sql("select count(*) from once") == [(2,)]


def test_a_lost_answer_loses_no_statement(service: RunningService, server: SnowflakeServer) -> None:
    server.fault(method="POST")
    made = template("select 1", output=True)
    with pytest.raises(Retry, match="cannot be reached"):
        submit(service, made, key="lost")
    assert submit(service, made, key="lost").result(20)
    assert len(server.statements) == 1


def test_an_answer_without_a_handle_is_asked_for_again(service: RunningService, server: SnowflakeServer) -> None:
    for body in (b"<html>", b"[]", b'{"statementHandle": "../x"}', b'{"statementHandle": 7}'):
        server.fault(Answer(200, body))
        with pytest.raises(Retry, match="names no statement"):
            submit(service, template("select 1"))


# ---- failures


@pytest.mark.parametrize(
    ("query", "code", "recoverable"),
    [
        ("selekt", "Snowflake001003", False),
        ("select fail_with('100038', '22018', 'Numeric value is not recognized')", "Snowflake100038", False),
        ("select fail_with('000606', '57P03', 'No active warehouse')", "Snowflake000606", False),
        ("select fail_with('003001', '42501', 'Insufficient privileges')", "Snowflake003001", False),
        ("select fail_with('000603', 'XX000', 'Internal error')", "Snowflake000603", True),
        ("select fail_with('000625', '57014', 'Too many wait for a lock')", "Snowflake000625", True),
        ("select fail_with('999999', '', 'Nobody knows it')", "Snowflake999999", False),
        ("select fail_with('', '', 'It has none')", "InvalidArgument", False),
    ],
)
def test_a_statement_that_fails(service: RunningService, query: str, code: str, recoverable: bool) -> None:
    job = submit_and_wait(service, template(query))
    assert (job.state, job.error_code, job.recoverable) == (JobState.FAILED, code, recoverable)
    assert job.message and job.log_links


def submit_and_wait(service: RunningService, made: dict[str, Any]) -> Job:
    job = submit(service, made)
    with pytest.raises(JobFailed):
        job.result(20)
    return job


def test_a_time_limit_is_the_author_s(service: RunningService) -> None:
    job = submit_and_wait(service, template(FOREVER, timeout="1"))
    assert (job.state, job.error_code, job.recoverable) == (JobState.FAILED, "StatementTimeout", True)
    assert "timeout of 1 second" in job.message


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (Answer(400, {"code": "390142", "message": "no valid payload"}), UserError, "390142 no valid payload"),
        (Answer(403, {"code": "390422", "message": "IP not allowed"}), PermissionDenied, "390422"),
        (Answer(404, b"<html>"), FailedPrecondition, "does not know account myorg-my_account: HTTP 404"),
        (Answer(405), SystemError_, "HTTP 405"),
        (Answer(302, headers={"Location": "https://evil.example/"}), SystemError_, "HTTP 302"),
        (Answer(422, {"code": "000904", "sqlState": "42000", "message": "invalid identifier"}), UserError, "000904: invalid"),
        (Answer(422, b"?"), UserError, "gave no reason"),
        (Answer(408, {"code": "000630", "message": "too slow"}), UserError, "too slow"),
        (Answer(500, {"message": "oops"}), Retry, "HTTP 500.: oops"),
        (Answer(503), Retry, "HTTP 503"),
        (Answer(429, {"code": "390505"}), Overloaded, "too many requests: 390505"),
        (Answer(299, {"statementHandle": "a"}), SystemError_, "HTTP 299"),
    ],
)
def test_answers_to_a_create(
    service: RunningService, server: SnowflakeServer, answer: Answer, error: type[BackendError], message: str
) -> None:
    server.fault(answer)
    with pytest.raises(error, match=message) as caught:
        submit(service, template("select 1"))
    assert type(caught.value) is error
    assert not server.statements


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        *((Answer(status), SystemError_) for status in (400, 401, 403, 404, 405, 299, 302)),
        *((Answer(status), Retry) for status in (500, 502, 503, 504)),
        (Answer(429), Overloaded),
    ],
)
def test_answers_that_do_not_end_a_job(
    service: RunningService, server: SnowflakeServer, answer: Answer, error: type[BackendError]
) -> None:
    """Whatever goes wrong with looking, the statement is still there."""
    job = submit(service, template("select 1", output=True))
    server.fault(answer, times=2 if answer.status == 401 else 1, method="GET")
    with pytest.raises(error) as caught:
        job.poll()
    assert type(caught.value) is error
    assert job.result(20)


def test_states_that_nobody_knows(service: RunningService, server: SnowflakeServer) -> None:
    """The HTTP status tells the state, whatever else there is."""
    job = submit(service, template("select system$wait(20)", output=True))
    server.fault(Answer(202, {"code": "777777", "statementHandle": None, "message": ["?"]}))
    assert job.poll() is JobState.RUNNING
    server.fault(Answer(200, {"code": "391908", "resultSetMetaData": 7}))
    assert job.poll() is JobState.SUCCEEDED and job.outputs
    server.fault(Answer(422, {"code": "weird: <b>", "sqlState": None}))
    assert job.poll() is JobState.FAILED and job.error_code == "InvalidArgument"
    job.cancel()


def test_pauses_are_the_vendor_s(service: RunningService, server: SnowflakeServer) -> None:
    for status, header, due in ((429, "7", 7), (429, None, 10), (429, "Wed, 21 Oct 2026 07:28:00 GMT", 10), (503, "3", 3)):
        server.fault(Answer(status, headers={"Retry-After": header} if header else {}))
        with pytest.raises(Retry) as caught:
            submit(service, template("select 1"))
        assert caught.value.after == due


def test_a_statement_that_is_not_there(service: RunningService, server: SnowflakeServer) -> None:
    job = submit(service, template("select 1"))
    server._by_handle.clear()
    with pytest.raises(BackendError, match="000709") as caught:
        job.poll()
    assert caught.value.code.value == "NOT_FOUND"
    job.cancel()


@pytest.mark.parametrize("handle", ["../../x", "", "a/cancel", "a?b", "x" * 65, "ä"])
def test_a_job_id_of_somebody_s_making_asks_for_nothing(service: RunningService, server: SnowflakeServer, handle: str) -> None:
    made_up = json.dumps({"account": ACCOUNT, "user": USER, "handle": handle})
    job = service.client.job("snowflake", made_up)
    with pytest.raises(BackendError) as caught:
        job.poll()
    assert caught.value.code.value == "NOT_FOUND"
    job.cancel()
    with pytest.raises(UserError, match="account"):
        service.client.job("snowflake", json.dumps({"account": "evil.example/", "user": "u", "handle": "a"})).poll()
    assert not server.calls


def test_a_large_result_is_not_read(service: RunningService, server: SnowflakeServer) -> None:
    query = "with recursive c(n) as (select 1 union all select n + 1 from c where n < 200000) select n from c"
    job = submit(service, template(query, output=True))
    assert len(rows(server, job.result(20))) == 200_000
    assert job.message == ""  # it stands too far from the begin
    assert run(service, template("select 1", output=True))


# ---- ends


def test_delete_ends_the_statement(service: RunningService, server: SnowflakeServer) -> None:
    job = submit(service, template(FOREVER))
    assert job.poll() is JobState.RUNNING
    job.cancel()
    eventually(server.statements[0].done.is_set)
    assert job.poll() is JobState.ABORTED and "000604" in job.message
    job.cancel()


def test_delete_of_what_is_done(service: RunningService, server: SnowflakeServer) -> None:
    job = submit(service, template("select 1", output=True))
    outputs = job.result(20)
    job.cancel()
    job.cancel()
    assert job.poll() is JobState.SUCCEEDED and job.outputs == outputs


def test_delete_that_does_not_work_is_asked_for_again(service: RunningService, server: SnowflakeServer) -> None:
    job = submit(service, template("select system$wait(20)"))
    not_now = Answer(422, {"code": "000001", "message": "not now"})
    for cancel, look, message in ((Answer(503), None, "503"), (not_now, None, "not now"), (not_now, Answer(502), "502")):
        server.faults.clear()
        server.fault(cancel, method="POST")
        if look is not None:
            server.fault(look, method="GET")
        with pytest.raises(Retry, match=message):
            job.cancel()
    job.cancel()
    assert job.poll() is JobState.ABORTED


# ---- credentials


def test_tokens_are_kept_and_renewed(service: RunningService, server: SnowflakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly an hour goes by for the service alone, so that the server takes its new token for one from the future."""
    run(service, template("select 1"))  # this service may have had a token for long
    server.presented.clear()
    server.calls.clear()
    run(service, template("select 1"))
    run(service, template("select 1"))
    assert len(server.calls) >= 4 and len(set(server.presented)) == 1
    claims = jwt.decode(server.presented[0].removeprefix("Bearer "), options={"verify_signature": False})
    assert claims["sub"] == f"{ACCOUNT.upper()}.{USER.upper()}" and 0 < claims["exp"] - time.time() <= 3600
    now = time.time
    monkeypatch.setattr("time.time", lambda: now() + _auth.BACKDATED - 5)  # a new one would be another one, and be taken
    run(service, template("select 1"))
    assert len(set(server.presented)) == 1
    monkeypatch.setattr("time.time", lambda: now() + _auth.RENEW_AFTER + 1)
    server.presented.clear()
    with pytest.raises(PermissionDenied, match="ImmatureSignatureError"):
        submit(service, template("select 1"))
    monkeypatch.undo()
    assert len(server.presented) == 2  # and once more with another one, as it was refused
    assert run(service, template("select 1", output=True))  # the one from the future was forgotten


def test_a_key_that_is_replaced_holds_at_once(server: SnowflakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a file, where flytekit's connector has it, and with a passphrase."""
    monkeypatch.delenv("_FSEC_SNOWFLAKE_PRIVATE_KEY")
    secret = tmp_path / "snowflake_private_key"
    secret.write_text(server.pem())
    new = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    with serve(SnowflakePlugin(), options=options(secrets=Secrets(folder=tmp_path))) as service:
        run(service, template("select 1"))
        job = submit(service, template("select 1", output=True))
        server.users[USER.upper()] = new.public_key()
        try:
            with pytest.raises(SystemError_, match="390144"):  # a poll is asked again: nothing is wrong with the job
                job.poll()
            with pytest.raises(PermissionDenied, match="does not let user flyte of account myorg-my_account in: 390144"):
                submit(service, template("select 1"))
            secret.write_bytes(new.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open")))
            with pytest.raises(FailedPrecondition, match="passphrase"):
                submit(service, template("select 1"))
            (tmp_path / "snowflake").mkdir()
            (tmp_path / "snowflake" / "private_key_passphrase").write_text("open\n")
            assert job.result(20)
        finally:
            server.users[USER.upper()] = server.key.public_key()


@pytest.mark.parametrize(
    ("secret", "kind"), [("oauth_token", "OAUTH"), ("programmatic_access_token", "PROGRAMMATIC_ACCESS_TOKEN")]
)
def test_tokens_that_are_secrets(server: SnowflakeServer, monkeypatch: pytest.MonkeyPatch, secret: str, kind: str) -> None:
    monkeypatch.delenv("_FSEC_SNOWFLAKE_PRIVATE_KEY")
    monkeypatch.setenv(f"_FSEC_SNOWFLAKE_{secret.upper()}", "first-token")
    with serve(SnowflakePlugin()) as service:
        with pytest.raises(PermissionDenied, match="390303"):
            submit(service, template("select 1"))
        server.tokens[kind].add("first-token")
        try:
            assert run(service, template("select 1", output=True))
        finally:
            server.tokens[kind].clear()


def test_a_secret_that_is_no_token_is_not_shown(server: SnowflakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("_FSEC_SNOWFLAKE_PRIVATE_KEY")
    with serve(SnowflakePlugin()) as service:
        for token in ("s3cret\ntwo lines", "s3crét", ""):
            monkeypatch.setenv("_FSEC_SNOWFLAKE_OAUTH_TOKEN", token)
            with pytest.raises(FailedPrecondition, match="oauth_token of group snowflake is no token") as caught:
                submit(service, template("select 1"))
            assert "s3cr" not in str(caught.value)
    assert not server.calls


def test_an_authority_that_is_not_trusted_is_named(server: SnowflakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with serve(SnowflakePlugin()) as service, pytest.raises(Retry, match="CERTIFICATE_VERIFY_FAILED"):
        submit(service, template("select 1"))
    assert not server.calls


def test_it_says_at_the_start_that_there_are_no_credentials(
    server: SnowflakeServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(SnowflakePlugin()):
        assert "will run" not in caplog.text
    monkeypatch.delenv("_FSEC_SNOWFLAKE_PRIVATE_KEY")
    with serve(SnowflakePlugin()):
        assert [text for text in caplog.messages if text.startswith("no task will run: the service has no credentials")]


def test_without_credentials(service: RunningService, server: SnowflakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    job = submit(service, template("select 1", output=True))
    small = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for value, message in (
        (
            None,
            "no credentials .* _FSEC_SNOWFLAKE_PRIVATE_KEY in the environment, or the file /etc/secrets/snowflake/private_key",
        ),
        ("nonsense-key", "no private key in PEM"),
        (small, "no RSA key"),
    ):
        if value is None:
            monkeypatch.delenv("_FSEC_SNOWFLAKE_PRIVATE_KEY")
        else:
            monkeypatch.setenv("_FSEC_SNOWFLAKE_PRIVATE_KEY", value)
        with pytest.raises(FailedPrecondition, match=message) as caught:
            submit(service, template("select 1"))
        assert "nonsense-key" not in str(caught.value)
        with pytest.raises(SystemError_, match=message):  # an outage, which the job outlives
            job.poll()
        with pytest.raises(SystemError_, match=message):
            job.cancel()
    monkeypatch.setenv("_FSEC_SNOWFLAKE_PRIVATE_KEY", server.pem())
    assert job.result(20)


def test_nothing_secret_is_told(service: RunningService, server: SnowflakeServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    job = submit(service, template("select 1", output=True))
    server.fault(method="GET")
    with pytest.raises(Retry) as caught:
        job.poll()
    job.result(20)
    key = "".join(server.pem().splitlines()[1:-1])
    told = caplog.text + job.job_id + str(caught.value) + repr(job.custom_info) + job.message
    tokens = {token.removeprefix("Bearer ") for token in server.presented}
    assert tokens and "snowflake" in caplog.text
    for secret in (*tokens, key[:40], *(token.split(".")[2] for token in tokens)):
        assert secret not in told
    assert json.loads(job.job_id).keys() == {"account", "user", "handle", "output", "warehouse", "database", "schema", "many"}


def test_the_extra_is_named_where_it_is_missing(server: SnowflakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(PluginError, match=r"pip install 'flyte-backend\[snowflake\]'"), serve(SnowflakePlugin()):
        pass


def test_importing_it_needs_nothing_more() -> None:
    code = "import flyte_backend.plugins.snowflake, sys; print({'flytekit', 'jwt', 'cryptography', 'snowflake'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# ---- templates that cannot run


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (template("select 1", config={"account": "evil.example/x"}), "account is 'evil.example/x'"),
        (template("select 1", config={"account": ""}), "has no account"),
        (template("select 1", config={"user": "a:b"}, output=True), "user of the task's config is 'a:b'"),
        (template(" "), "has no statement"),
    ],
)
def test_templates_that_cannot_run(
    service: RunningService, server: SnowflakeServer, made: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        submit(service, made)
    assert not server.calls


def test_outputs_that_a_statement_does_not_give(service: RunningService, server: SnowflakeServer) -> None:
    table: dict[str, Any] = {"type": {"structuredDatasetType": {}}}
    for variables in ({"n": {"type": {"simple": "INTEGER"}}}, {"a": table, "b": table}):
        made = template("select 1", output=True)
        made["interface"]["outputs"]["variables"] = variables
        with pytest.raises(UserError, match="StructuredDataset"):
            submit(service, made)
    assert not server.calls


# ---- many


def test_many_jobs_over_few_connections(
    service: RunningService, server: SnowflakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_plugin, "POLLS_AT_ONCE", 8)
    monkeypatch.setattr(_plugin, "POLL_MANY_TIMEOUT", 60)
    before = server.connections
    made = template("select 1", output=True)
    jobs = [submit(service, made) for _ in range(20)]
    for one in jobs:
        one.result(20)
    assert server.connections - before <= 2  # they came one after the other, over one that was kept
    bad = json.dumps({**json.loads(jobs[0].job_id), "handle": "no-such"})
    ids = [job.job_id for job in jobs] * 10 + [bad, "nonsense"]
    results = poll_many(service, ids)
    assert [one["job"]["job_state"] for one in results[:-2]] == ["SUCCEEDED"] * 200
    assert [one["error"]["error_code"] for one in results[-2:]] == ["NOT_FOUND", "NOT_FOUND"]
    assert server.connections - before <= 2 + 8


def test_a_full_server_is_not_asked_by_every_job(
    service: RunningService, server: SnowflakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_plugin, "POLLS_AT_ONCE", 4)
    job = submit(service, template("select 1"))
    server.calls.clear()
    server.fault(Answer(429, headers={"Retry-After": "5"}), times=1000, method="GET")
    results = poll_many(service, [job.job_id] * 300)
    assert {(one["error"]["error_code"], one["error"]["retry_after_seconds"]) for one in results} == {("RESOURCE_EXHAUSTED", 5)}
    assert len(server.calls) <= 4


def test_those_that_are_late_hold_nobody_up(
    service: RunningService, server: SnowflakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(service, template("select 1", output=True))
    job.result(20)
    monkeypatch.setattr(_plugin, "POLL_MANY_TIMEOUT", 2.0)
    server.fault(Answer(200, after=20), times=3, method="GET")
    results = poll_many(service, [job.job_id] * 15)
    assert [one["error"]["error_code"] for one in results if "error" in one] == ["DEADLINE_EXCEEDED"] * 3
    assert [one["job"]["job_state"] for one in results if "job" in one] == ["SUCCEEDED"] * 12


def poll_many(service: RunningService, ids: list[str]) -> list[dict[str, Any]]:
    import httpx

    jobs = [{"job_id": one} for one in ids]
    answer = httpx.post(f"{service.url}/plugins/v1/snowflake/v1/poll", json={"jobs": jobs}, timeout=30)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def test_creates_at_once(service: RunningService, server: SnowflakeServer) -> None:
    made = template("select 1", output=True)
    ids: set[str] = set()
    threads = [threading.Thread(target=lambda: ids.add(submit(service, made, key="same").job_id)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 1 and len(server.statements) == 1


# ---- the test's server, which other tests start as a program


@pytest.mark.parametrize("how", ["input", "signal"])
def test_the_server_as_a_program(how: str) -> None:
    command = [sys.executable, str(PYTHON / "tests/snowflake_server.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/") as process:
        assert process.stdout is not None and process.stdin is not None
        about = json.loads(process.stdout.readline())
        assert os.path.exists(about["ca"]) and about["url"].startswith("https://127.0.0.1:")
        assert about["env"].keys() == {"FLYTE_SNOWFLAKE_HOST", "SSL_CERT_FILE", "_FSEC_SNOWFLAKE_PRIVATE_KEY"}
        if how == "input":
            process.stdin.close()
        else:
            process.terminate()
        assert process.wait(30) == 0
    assert not os.path.exists(about["ca"])
