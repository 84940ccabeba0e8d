"""The Databricks plugin and the vendor's API: errors, credentials, instances, many runs at once; and the server that tests it."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flyte_backend import (
    BackendError,
    BackendPluginBase,
    Code,
    ConfigurationError,
    JobState,
    JobStatus,
    Overloaded,
    Retry,
    SecretError,
    Secrets,
    TaskInfo,
    Unauthenticated,
    UserError,
)
from flyte_backend.testing import serve as serve_plugin

from .conftest import PYTHON, Start, eventually
from .databricks_calls import (
    SCRIPT,
    Databricks,
    Run,
    Settings,
    ask,
    configured,
    create,
    filled,
    host_of,
    poll,
    poll_many,
    registered,
    running,
    short,
    states,
)
from .databricks_server import CLIENT_ID, CLIENT_SECRET, SUBJECT_TOKEN, TOKEN, Fault
from .databricks_server import Databricks as Server


@pytest.fixture(scope="module")
def databricks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    with running(tmp_path_factory.mktemp("databricks")) as found:
        yield found


@pytest.fixture
def server(databricks: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with configured(*databricks, monkeypatch) as server:
        yield server


@pytest.fixture
def templates() -> dict[str, Any]:
    return registered()


# ---- errors


@pytest.mark.parametrize(
    ("fault", "on_create", "on_poll"),
    [
        ({"status": 400, "body": {"error_code": "INVALID_PARAMETER_VALUE", "message": "m"}}, "INVALID_ARGUMENT", "INTERNAL"),
        ({"status": 400, "body": {"error_code": "QUOTA_EXCEEDED", "message": "m"}}, "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"),
        ({"status": 401, "body": {"error_code": "UNAUTHENTICATED", "message": "m"}}, "UNAUTHENTICATED", "UNAUTHENTICATED"),
        (
            {"status": 403, "body": {"error_code": "403", "message": "Invalid access token."}},
            "UNAUTHENTICATED",
            "UNAUTHENTICATED",
        ),
        ({"status": 403, "body": {"error_code": "PERMISSION_DENIED", "message": "m"}}, "PERMISSION_DENIED", "INTERNAL"),
        ({"status": 404, "body": {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "m"}}, "NOT_FOUND", "NOT_FOUND"),
        ({"status": 404, "body": {"error_code": "ENDPOINT_NOT_FOUND", "message": "m"}}, "INTERNAL", "INTERNAL"),
        ({"status": 404, "body": "<html>a proxy's</html>"}, "UNAVAILABLE", "UNAVAILABLE"),
        ({"status": 409, "body": {"error_code": "RESOURCE_CONFLICT", "message": "m"}}, "ABORTED", "ABORTED"),
        (
            {"status": 429, "body": {"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "m"}},
            "RESOURCE_EXHAUSTED",
            "RESOURCE_EXHAUSTED",
        ),
        ({"status": 500, "body": {"error_code": "INTERNAL_ERROR", "message": "m"}}, "UNAVAILABLE", "UNAVAILABLE"),
        ({"status": 503, "body": "busy"}, "UNAVAILABLE", "UNAVAILABLE"),
        ({"status": 302, "body": "", "headers": {"Location": "https://evil.example/"}}, "INTERNAL", "INTERNAL"),
        ({"status": 200, "body": "<html>log in</html>"}, "UNAVAILABLE", "UNAVAILABLE"),
        ({"status": 200, "body": [1]}, "UNAVAILABLE", "UNAVAILABLE"),
        ({"lost": True, "times": 2}, "UNAVAILABLE", "UNAVAILABLE"),
    ],
)
def test_errors_of_the_vendor(server: Server, fault: dict[str, Any], on_create: str, on_poll: str) -> None:
    plugin = Databricks()
    run = server.add("RUNNING")
    server.faults = [Fault("runs/submit", **fault), Fault("runs/get", **fault)]
    with pytest.raises(BackendError) as raised:
        create(plugin, short(60))
    assert raised.value.code == Code(on_create), raised.value
    with pytest.raises(BackendError) as raised:
        poll(plugin, Run(server.instance, run.run_id))
    assert raised.value.code == Code(on_poll), raised.value
    assert poll(plugin, Run(server.instance, run.run_id)).state == JobState.RUNNING  # it goes on


@pytest.mark.parametrize(
    ("headers", "after"),
    [
        ({"Retry-After": "17"}, 17.0),
        ({"Retry-After": "Tue, 24 Nov 2026 10:00:30 GMT", "Date": "Tue, 24 Nov 2026 10:00:00 GMT"}, None),
        ({"Retry-After": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_pause_that_the_vendor_asks_for_is_propellers(server: Server, headers: dict[str, str], after: float | None) -> None:
    server.faults = [Fault("runs/submit", status=429, body={}, headers=headers)]
    began = time.monotonic()
    with pytest.raises(Overloaded) as raised:
        create(Databricks(), short())
    assert raised.value.after == after if after is not None else raised.value.after >= 0
    assert time.monotonic() - began < 5  # nobody slept here for it


def test_an_instance_that_is_not_there(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYTE_DATABRICKS_INSTANCE", "127.0.0.1:1")
    with pytest.raises(Retry, match="127.0.0.1:1 cannot be reached"):
        create(Databricks(), short())
    monkeypatch.setenv("FLYTE_DATABRICKS_INSTANCE", server.instance)
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(Retry, match="certificate verify failed"):  # the token is not sent to who cannot prove its name
        create(Databricks(), short())
    assert not server.calls


# ---- credentials


def test_a_personal_token_is_read_where_flytekit_has_it(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("_FSEC_FLYTE_DATABRICKS_ACCESS_TOKEN")
    plugin, secrets = Databricks(), Secrets(folder=tmp_path)
    run = Run(server.instance, server.add("RUNNING").run_id)
    with pytest.raises(SecretError, match="no Databricks token"):  # which ends no run
        poll(plugin, run, secrets)
    (tmp_path / "flyte_databricks_access_token").write_text(TOKEN + "\n")
    assert poll(plugin, run, secrets).state == JobState.RUNNING
    (tmp_path / "databricks-token").mkdir()
    (tmp_path / "databricks-token/token").write_text("of-yesterday")
    with pytest.raises(Unauthenticated, match="Invalid access token"):
        poll(plugin, run, secrets)
    (tmp_path / "databricks-token/token").write_text(TOKEN)  # it was rotated
    assert poll(plugin, run, secrets).state == JobState.RUNNING
    # One that is named in particular is not replaced by the one for everybody.
    named = Run(server.instance, run.run_id, secret="databricks-team")
    with pytest.raises(BackendError, match="databricks-team"):
        poll(plugin, named, secrets)
    monkeypatch.setenv("_FSEC_DATABRICKS-TEAM_TOKEN", TOKEN)
    assert poll(plugin, named, secrets).state == JobState.RUNNING


def test_it_says_at_the_start_that_there_is_no_token(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serve_plugin(Databricks()):
        assert "will run" not in caplog.text
    monkeypatch.delenv("_FSEC_FLYTE_DATABRICKS_ACCESS_TOKEN")
    with serve_plugin(Databricks()):
        assert [text for text in caplog.messages if text.startswith("only tasks that name a secret will run: there is no D")]


def test_a_service_principal_gets_one_token_for_many_calls(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("_FSEC_FLYTE_DATABRICKS_ACCESS_TOKEN")
    monkeypatch.setenv("FLYTE_DATABRICKS_AUTH_TYPE", "oauth_m2m")
    monkeypatch.setenv("DATABRICKS_CLIENT_ID", CLIENT_ID)
    plugin = Databricks()
    run = Run(server.instance, server.add("RUNNING").run_id)
    with pytest.raises(BackendError, match="DATABRICKS_CLIENT_SECRET"):
        poll(plugin, run)
    monkeypatch.setenv("DATABRICKS_CLIENT_SECRET", "wrong")
    with pytest.raises(Unauthenticated, match="does not accept client 'sp-1': Client authentication failed"):
        poll(Databricks(), run)
    monkeypatch.setenv("_FSEC_DATABRICKS-OAUTH_CLIENT_SECRET", CLIENT_SECRET)
    plugin, looks = Databricks(), 20

    async def work() -> None:
        server.calls.clear()
        await asyncio.gather(*(plugin.poll(run, Secrets()) for _ in range(looks)))
        assert (server.calls["token"], server.calls["runs/get"]) == (1, looks)
        # It ended before its time: another one is got, and nobody is told.
        server.tokens = dict.fromkeys(server.tokens, 0.0)
        assert (await plugin.poll(run, Secrets())).state == JobState.RUNNING
        assert (server.calls["token"], server.calls["runs/get"]) == (2, looks + 2)
        server.faults = [Fault("token", status=503)]
        server.tokens = dict.fromkeys(server.tokens, 0.0)
        with pytest.raises(Retry, match="gives no token"):
            await plugin.poll(run, Secrets())
        await plugin.close()

    asyncio.run(work())


def test_a_token_is_renewed_before_it_ends(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.token_life = 1
    task = {"databricksAuthType": "oauth_m2m", "databricksClientId": CLIENT_ID}
    monkeypatch.setenv("_FSEC_DATABRICKS-OAUTH_CLIENT_SECRET", CLIENT_SECRET)
    template = short(60)
    template["custom"] |= task
    plugin = Databricks()

    async def work() -> None:
        run = await plugin.create(TaskInfo(template, idempotency_key="k"))
        assert (run.auth, run.client_id) == ("oauth_m2m", CLIENT_ID)
        deadline = time.monotonic() + 30
        while server.calls["token"] < 3:
            assert (await plugin.poll(run, Secrets())).state == JobState.RUNNING
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        await plugin.close()

    asyncio.run(work())
    assert not server.calls["refused"]


def test_a_workload_is_federated(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "jwt").write_text(SUBJECT_TOKEN)
    monkeypatch.setenv("FLYTE_DATABRICKS_OIDC_TOKEN_FILE", str(tmp_path / "jwt"))
    template = short(60)
    template["custom"] |= {
        "databricksAuthType": "oidc_federation",
        "databricksClientId": CLIENT_ID,
        "databricksOidcTokenFile": str(tmp_path / "jwt"),
    }
    plugin = Databricks()
    run = create(plugin, template)
    assert poll(plugin, run).state == JobState.RUNNING


def test_no_secret_is_in_job_ids_or_logs(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("_FSEC_DATABRICKS-OAUTH_CLIENT_SECRET", CLIENT_SECRET)
    caplog.set_level(logging.DEBUG)
    plugin, template, told = Databricks(), short(60), []
    for custom in ({}, {"databricksAuthType": "oauth_m2m", "databricksClientId": CLIENT_ID}):
        server.faults.clear()
        run = create(plugin, {**template, "custom": {**template["custom"], **custom}}, key=str(custom))
        told += [repr(run), repr(poll(plugin, run)), repr(plugin.settings)]
        server.faults = [Fault("runs/get", status=status) for status in (500, 400)] + [Fault("token", status=401)]
        for _ in range(2):
            with pytest.raises(BackendError) as raised:
                poll(plugin, run)
            told.append(str(raised.value))
    everything = "\n".join([*told, caplog.text])
    for secret in (TOKEN, CLIENT_SECRET, *server.tokens):
        assert secret not in everything
    assert "runs/get" in everything  # the log was not empty


# ---- instances


def test_instances_are_what_the_operator_says(
    server: Server, templates: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYTE_DATABRICKS_INSTANCE", "other.example")
    monkeypatch.setenv("FLYTE_DATABRICKS_INSTANCES", f" https://{server.instance}/, third.example")
    run = create(Databricks(), filled(templates["notebook"], databricksInstance=server.instance))
    assert run.instance == server.instance
    # A job id comes from outside: it cannot name any other host either.
    plugin = Databricks()
    for forged in (Run("evil.example", 1), Run(f"{server.instance}@evil.example", 1)):
        with pytest.raises(BackendError, match="does not talk to instance"):
            poll(plugin, forged)
        with pytest.raises(BackendError, match="does not talk to instance"):
            ask(plugin, functools.partial(plugin.delete, forged, Secrets()))
        assert states(poll_many(plugin, [forged] * 4)) == ["INTERNAL"] * 4
    with pytest.raises(BackendError, match="may not name secret 'aws-root'"):
        poll(plugin, Run(server.instance, 1, secret="aws-root"))
    monkeypatch.delenv("FLYTE_DATABRICKS_INSTANCE")
    with pytest.raises(UserError, match="names no Databricks instance"):
        create(Databricks(), filled(templates["notebook"]))
    assert host_of("HTTPS://Dbc-1.Cloud.Databricks.Com:443/") == "dbc-1.cloud.databricks.com"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("FLYTE_DATABRICKS_INSTANCE", "http://x", "plain http"),
        ("FLYTE_DATABRICKS_INSTANCES", "a.example,*.example", "'*.example' is no host"),
        ("FLYTE_DATABRICKS_AUTH_TYPE", "basic", "one of pat"),
    ],
)
def test_settings_that_are_wrong_keep_the_service_from_starting(name: str, value: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Settings.from_env({name: value})
    assert name in str(raised.value) and says in str(raised.value)


def test_the_service_starts_with_what_it_is_told(server: Server, start: Start) -> None:
    process = start(
        "--plugins", "flyte_backend.plugins.databricks", "--insecure", env={"FLYTE_DATABRICKS_TASK_TYPES": "databricks"}
    )
    from flyte_backend.client import BackendClient

    with BackendClient(process.url) as client:
        assert [one["task_type"] for one in client.plugins()] == ["databricks"]
    for name, value, says in (
        ("FLYTE_DATABRICKS_AUTH_TYPE", "basic", "FLYTE_DATABRICKS_AUTH_TYPE is 'basic'"),
        ("FLYTE_DATABRICKS_INSTANCE", "", "FLYTE_DATABRICKS_INSTANCE is not set"),
    ):
        wrong = start("--plugins", "flyte_backend.plugins.databricks", "--insecure", wait=False, env={name: value})
        assert wrong.wait() == 2
        eventually(lambda wrong=wrong, says=says: says in "".join(wrong.lines))  # type: ignore[misc]


# ---- many runs


def test_a_thousand_active_runs_are_42_calls(server: Server) -> None:
    runs = [Run(server.instance, server.add("RUNNING", message="In run").run_id) for _ in range(1000)]
    plugin = Databricks()
    with serve_plugin(plugin) as service:
        ids = [json.dumps({"instance": run.instance, "run_id": run.run_id}) for run in runs]
        import httpx

        answer = httpx.post(
            f"{service.url}/plugins/v1/databricks/v1/poll", json={"jobs": [{"job_id": one} for one in ids]}, timeout=30
        ).json()
    assert [one["job"]["job_state"] for one in answer["results"]] == ["RUNNING"] * 1000
    assert answer["results"][7]["job"]["custom_info"]["run_id"] == str(runs[7].run_id)
    assert server.calls == {"runs/list": 42}  # pages of 24


def test_runs_that_ended_are_looked_at_by_themselves(server: Server) -> None:
    runs = [server.add("RUNNING") for _ in range(60)]
    ended = [server.add("TERMINATED", result) for result in ("SUCCESS", "FAILED", "CANCELED")]
    gone = Run(server.instance, 7)
    asked = [Run(server.instance, run.run_id) for run in [*ended, *runs]] + [gone]
    results = states(poll_many(Databricks(), asked))
    assert results == ["SUCCEEDED", "FAILED", "ABORTED", *["RUNNING"] * 60, "NOT_FOUND"]
    assert server.calls["runs/list"] == 3 and server.calls["runs/get"] == 4


def test_runs_of_others_bound_the_paging(server: Server) -> None:
    ours = [Run(server.instance, server.add("RUNNING").run_id) for _ in range(100)]
    for _ in range(1000):
        server.add("RUNNING")  # newer, so that they come first
    plugin = Databricks()
    assert states(poll_many(plugin, ours)) == ["RUNNING"] * 100
    assert server.calls == {"runs/list": 3, "runs/get": 100}
    assert server.most_at_once <= 16
    # Mixed with as many of others, the list still pays.
    server.forget()
    ours = []
    for i in range(200):
        run = server.add("RUNNING")
        if i % 2:
            ours.append(Run(server.instance, run.run_id))
    assert states(poll_many(plugin, ours)) == ["RUNNING"] * 100
    assert server.calls == {"runs/list": 9}
    # Runs of jobs are none of ours, and not listed.
    for _ in range(200):
        server.add("RUNNING", run_type="JOB_RUN")
    server.calls.clear()
    assert states(poll_many(plugin, ours)) == ["RUNNING"] * 100
    assert server.calls == {"runs/list": 9}
    # Two are not worth a page.
    server.calls.clear()
    assert states(poll_many(plugin, ours[:2])) == ["RUNNING"] * 2
    assert server.calls == {"runs/get": 2}


def test_a_list_that_fails_says_so_of_each_run_and_one_run_only_of_itself(server: Server) -> None:
    runs = [Run(server.instance, server.add("RUNNING").run_id) for _ in range(30)]
    plugin = Databricks()
    server.faults = [Fault("runs/list", status=429, headers={"Retry-After": "9"})]
    results = poll_many(plugin, runs)
    assert states(results) == ["RESOURCE_EXHAUSTED"] * 30
    assert all(isinstance(one, Overloaded) and one.after == 9 for one in results)
    assert not server.calls["runs/get"]
    for run in runs[:10]:
        server.runs[run.run_id].end("TERMINATED", "SUCCESS")
    server.faults = [Fault("runs/get", status=503)]
    results = poll_many(plugin, runs)
    assert sorted(states(results[:10])) == ["SUCCEEDED"] * 9 + ["UNAVAILABLE"]
    assert states(results[10:]) == ["RUNNING"] * 20


def test_an_unknown_state_in_the_list_is_no_end(server: Server) -> None:
    runs = [Run(server.instance, server.add("RUNNING").run_id) for _ in range(5)]
    server.runs[runs[0].run_id].state = {"life_cycle_state": "HIBERNATING"}
    results = poll_many(Databricks(), runs)
    assert states(results) == ["RUNNING"] * 5
    assert isinstance(results[0], JobStatus) and "HIBERNATING" in results[0].message


# ---- the client


def test_slow_answers_keep_nobody_waiting_and_connections_are_kept(server: Server) -> None:
    run = Run(server.instance, server.add("RUNNING").run_id)
    plugin = Databricks()

    async def work() -> float:
        for _ in range(20):
            await plugin.poll(run, Secrets())
        assert server.connections == 1
        server.faults = [Fault("runs/get", late=0.5, times=20)]
        began = time.monotonic()
        await asyncio.gather(*(plugin.poll(run, Secrets()) for _ in range(20)))
        took = time.monotonic() - began
        await plugin.close()
        return took

    assert asyncio.run(work()) < 5  # one after another it were ten seconds
    assert server.most_at_once >= 10


def test_an_instance_that_hangs_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    import flyte_backend.plugins.databricks._api as api
    import httpx

    monkeypatch.setattr(api, "_TIMEOUT", httpx.Timeout(0.5))
    run = Run(server.instance, server.add("RUNNING").run_id)
    server.faults = [Fault("runs/get", late=1.5)]
    with pytest.raises(BackendError, match="did not answer runs/get in time") as raised:
        poll(Databricks(), run)
    assert raised.value.code == Code.DEADLINE_EXCEEDED


# ---- the server


def test_the_server_speaks_to_the_vendors_own_client(databricks: tuple[Server, Path], server: Server) -> None:
    """In a process of its own, since the vendor's client reads the environment and keeps threads."""
    code = """
import sys
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import ResourceDoesNotExist
from databricks.sdk.service.jobs import RunLifeCycleState, RunResultState, RunType, SparkPythonTask, SubmitTask, TerminationCodeCode
host, token, secret, script = sys.argv[1:]
jobs = WorkspaceClient(host=host, token=token, auth_type="pat").jobs
task = SubmitTask("t", existing_cluster_id="c", spark_python_task=SparkPythonTask(script, parameters=["600", "0"]))
waiter = jobs.submit(run_name="r", tasks=[task], idempotency_token="i")
assert jobs.submit(run_name="r", tasks=[task], idempotency_token="i").run_id == waiter.run_id
run = jobs.get_run(waiter.run_id)
assert run.state.life_cycle_state == RunLifeCycleState.RUNNING and run.run_type == RunType.SUBMIT_RUN, run
assert [one.run_id for one in jobs.list_runs(active_only=True, limit=1)] == [waiter.run_id]
jobs.cancel_run(waiter.run_id)
while (run := jobs.get_run(waiter.run_id)).state.life_cycle_state != RunLifeCycleState.TERMINATED:
    pass
assert run.state.result_state == RunResultState.CANCELED
assert run.status.termination_details.code == TerminationCodeCode.USER_CANCELED
assert jobs.get_run_output(run.run_id).metadata.run_id == run.run_id
jobs.delete_run(run.run_id)
for gone in (lambda: jobs.get_run(run.run_id), lambda: jobs.submit(run_name="r", tasks=[task], idempotency_token="i")):
    try:
        gone()
        raise AssertionError("it was deleted")
    except ResourceDoesNotExist:
        pass
"""
    _, ca = databricks
    done = subprocess.run(
        [sys.executable, "-c", code, f"https://{server.instance}", TOKEN, CLIENT_SECRET, str(SCRIPT)],
        env={"PATH": os.environ["PATH"], "REQUESTS_CA_BUNDLE": str(ca), "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_the_server_is_a_script_as_well(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, str(PYTHON / "tests/databricks_server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            about = json.loads(process.stdout.readline())
            assert set(about) == {"url", "instance", "ca", "env"}
            for name, value in about["env"].items():
                monkeypatch.setenv(name, value)
            plugin: BackendPluginBase = Databricks()
            assert isinstance(plugin, Databricks)
            run = create(plugin, short())
            assert run.instance == about["instance"]
            assert eventually(lambda: poll(plugin, run).state == JobState.SUCCEEDED)
        finally:
            process.stdin.close()
        assert process.wait(30) == 0
    assert not Path(about["ca"]).exists()
