"""The Databricks plugin against databricks_server.py, with tasks that flytekit serialised: what is submitted, and what becomes of it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flyte_backend import (
    JobState,
    JobStatus,
    NotFound,
    Overloaded,
    Retry,
    Secrets,
    UserError,
)
from flyte_backend.testing import serve as serve_plugin

from .conftest import Start, eventually
from .databricks_calls import (
    METADATA,
    SCRIPT,
    Databricks,
    ask,
    configured,
    create,
    filled,
    finish,
    poll,
    registered,
    rendered,
    running,
    short,
    status_of,
)
from .databricks_server import ENTRYPOINTS, TOKEN, Fault
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


# ---- tasks of flytekit, really run


def test_a_task_of_flytekit_runs_and_writes_its_outputs(
    server: Server, start: Start, templates: dict[str, Any], tmp_path: Path
) -> None:
    from flyte_backend.client import BackendClient
    from flyteidl.core.literals_pb2 import LiteralMap

    server.pending = 0.5
    process = start(
        "--plugins", "flyte_backend.plugins.databricks", "--insecure", "--log-level", "debug", "--readiness-delay", "0"
    )
    inputs = {"n": 2, "name": "circle"}
    template = rendered(templates["area"], tmp_path / "task", inputs)
    with BackendClient(process.url) as client:
        assert {one["task_type"] for one in client.plugins()} == {"databricks", "spark"}
        job = client.submit(
            "databricks",
            inputs,
            template=template,
            output_prefix=str(tmp_path / "task/out"),
            metadata=METADATA,
            idempotency_key="5" * 64,
        )
        seen = [(view.state, view.message) for view in job.follow(timeout=60)]
    assert seen[0] == (JobState.INITIALIZING, "PENDING: Waiting for cluster")
    assert (JobState.RUNNING, "RUNNING: In run") in seen
    assert seen[-1][0] == JobState.SUCCEEDED, (seen, server.runs)
    outputs = LiteralMap.FromString((tmp_path / "task/out/outputs.pb").read_bytes()).literals
    assert outputs["o0"].scalar.primitive.float_value == 3.0
    # The task's environment reaches it, and so does which execution it belongs to.
    assert outputs["o1"].scalar.primitive.string_value == "circle cm exec1"
    (request,) = server.requests
    assert request["idempotency_token"] == "5" * 64
    assert request["run_name"] == "area of a circle" and request["timeout_seconds"] == 600
    assert json.dumps(request["new_cluster"]["num_workers"]) == "2"
    assert request["new_cluster"]["docker_image"] == {"url": "example.test/spark:1"}
    assert request["new_cluster"]["spark_conf"] == {"spark.hadoop.fs.s3a.x": "1", "a": "cluster", "b": "task"}
    assert request["new_cluster"]["spark_env_vars"] == {
        "UNIT": "cm",
        "FLYTE_K8S_ARRAY_INDEX": "3",
        "FLYTE_INTERNAL_EXECUTION_ID": "exec1",
        "FLYTE_INTERNAL_EXECUTION_PROJECT": "p",
        "FLYTE_INTERNAL_EXECUTION_DOMAIN": "d",
        "FLYTE_ATTEMPT_NUMBER": "1",
        "FLYTE_FAIL_ON_ERROR": "true",
    }
    (run,) = server.runs
    assert job.log_links == {"Databricks Run": f"https://{server.instance}/?o=1#job/{run + 1}/run/{run}"}
    assert job.custom_info["run_id"] == str(run) and job.custom_info["result_state"] == "SUCCESS"
    assert TOKEN not in job.job_id and TOKEN not in "".join(process.lines)
    assert json.loads(job.job_id) == {"instance": server.instance, "run_id": run, "auth": "", "secret": "", "client_id": ""}
    process.signal()
    assert process.wait() == 0


def test_a_task_that_fails_leaves_its_error_to_propeller_and_says_what_the_output_says(
    server: Server, templates: dict[str, Any], tmp_path: Path
) -> None:
    from flyteidl.core.errors_pb2 import ContainerError, ErrorDocument

    # It is registered without an image of its own: the code comes as an archive, which is not the code beside this test.
    archive = tmp_path / "code.tar.gz"
    code = (Path(__file__).parent / "databricks_tasks.py").read_text().replace("the moon", "the sun")
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in {"tests/__init__.py": "", "tests/databricks_tasks.py": code}.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    plugin = Databricks()
    template = rendered(templates["failing"], tmp_path / "task", {"n": 1})
    fast = ["pyflyte-fast-execute", "--additional-distribution", str(archive), "--dest-dir", ".", "--"]
    template["container"]["args"] = fast + template["container"]["args"]
    run = create(plugin, template)
    finish(server, run)
    status = poll(plugin, run)
    # An error here would hide error.pb, which tells more, and whether another attempt may go well.
    assert (status.state, status.error) == (JobState.FAILED, None)
    said = "the sun is in the wrong place"
    assert said in status.message and "TERMINATED/FAILED: Workload failed" in status.message
    written = ErrorDocument.FromString((tmp_path / "task/out/error.pb").read_bytes()).error
    assert written.kind == ContainerError.RECOVERABLE and said in written.message


def test_delete_kills_the_run_and_may_be_repeated(server: Server) -> None:
    with serve_plugin(Databricks()) as service:
        job = service.submit("databricks", template=short(600))
        (run,) = server.runs.values()
        assert run.process is not None
        pid = run.process.pid
        assert job.poll() == JobState.RUNNING and Path(f"/proc/{pid}").exists()
        job.cancel()
        eventually(lambda: job.poll() == JobState.ABORTED)
        job.cancel()
        assert "USER_CANCELED" in str(job.custom_info)
        assert not Path(f"/proc/{pid}").exists()
        gone = service.client.job("databricks", json.dumps({"instance": server.instance, "run_id": 7}))
        gone.cancel()
        with pytest.raises(NotFound, match="Run 7 does not exist"):
            gone.poll()


def test_what_a_run_wrote_is_its_log(server: Server) -> None:
    plugin = Databricks()
    run = create(plugin, short(code=3))
    finish(server, run)
    (page,) = ask(plugin, lambda: plugin.logs(run, Secrets()))
    assert page.lines == ["ending with 3\n"]


# ---- creation


def test_a_repeated_create_starts_no_second_run(server: Server) -> None:
    plugin = Databricks()
    first = create(plugin, short(60), key="a")
    assert create(Databricks(), short(60), key="a") == first  # of a replica, or after a restart
    assert create(plugin, short(60), key="b") != first
    long = [create(plugin, short(60), key="c" * 65) for _ in range(2)]
    assert long[0] == long[1] and len(server.requests) == 3


def test_an_answer_that_is_lost_is_asked_for_again(server: Server) -> None:
    server.faults = [Fault("runs/submit", lost=True)]
    plugin = Databricks()
    run = create(plugin, short(60))
    assert (server.calls["runs/submit"], len(server.runs)) == (2, 1) and run.run_id in server.runs
    # Both are lost: propeller asks again, with the same key.
    server.faults = [Fault("runs/submit", lost=True, times=2)]
    with pytest.raises(Retry, match="cannot be reached"):
        create(plugin, short(60), key="other")
    create(plugin, short(60), key="other")
    assert len(server.runs) == 2
    # Without a key there is nothing to tell the two by, so it is not repeated.
    server.faults = [Fault("runs/submit", lost=True)]
    with pytest.raises(Retry):
        create(plugin, short(60), key="")
    assert len(server.runs) == 3


def test_a_create_whose_run_was_deleted_fails_the_attempt(server: Server) -> None:
    plugin = Databricks()
    run = create(plugin, short())
    finish(server, run)
    server.delete({"run_id": run.run_id})
    with pytest.raises(NotFound, match="the run of this attempt was deleted") as raised:
        create(plugin, short())
    assert raised.value.reason == "RESOURCE_DOES_NOT_EXIST"  # as the system's failure: another attempt has another key
    with pytest.raises(NotFound):
        poll(plugin, run)


def test_settings_of_every_kind_are_taken(server: Server, templates: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for file in [*ENTRYPOINTS, "run.py"]:  # what they run is not looked at here
        monkeypatch.setitem(ENTRYPOINTS, file, "")
    plugin = Databricks()

    def submitted(name: str, **custom: Any) -> dict[str, Any]:
        create(plugin, filled(templates[name], **custom), key=f"{name}{custom}", metadata=METADATA)
        return server.requests[-1]

    on_a_cluster = submitted("on_a_cluster")
    assert on_a_cluster["spark_python_task"]["python_file"] == "dbfs:/flyte/entrypoint.py"
    assert "source" not in on_a_cluster["spark_python_task"] and "git_source" not in on_a_cluster
    assert on_a_cluster["existing_cluster_id"] == "0101-1-abc" and on_a_cluster["libraries"] == [{"pypi": {"package": "x"}}]
    assert on_a_cluster["run_name"] == "flyte exec1 n0 tests.databricks_tasks.on_a_cluster"

    older = submitted("older")
    assert older["spark_python_task"]["source"] == "GIT"
    assert older["git_source"]["git_url"] == "https://github.com/flyteorg/flytetools"
    monkeypatch.setenv("FLYTE_DATABRICKS_ENTRYPOINT", str(SCRIPT))
    create(Databricks("spark"), filled(templates["older"]), key="with an entry point")
    assert server.requests[-1]["spark_python_task"]["python_file"] == str(SCRIPT)
    assert "git_source" not in server.requests[-1]

    serverless = submitted("serverless")
    (task,) = serverless["tasks"]
    assert task["environment_key"] == "mine" and task["spark_python_task"]["python_file"] == "run.py"
    assert task["spark_python_task"]["parameters"][-1] == "--flyte-credential-provider=storage"
    assert serverless["git_source"]["git_url"] == "https://git.example/mine"
    (one,) = serverless["environments"]
    assert one["spec"]["client"] == "2" and one["spec"]["dependencies"] == ["pandas==2.0.0"]
    assert one["spec"]["environment_vars"]["FLYTE_FAIL_ON_ERROR"] == "true"
    assert submitted("in_default_environment")["environments"][0]["spec"]["client"] == "1"

    notebook = submitted("notebook")
    assert notebook["notebook_task"] == {
        "notebook_path": "/Users/a@example.com/notebook",
        "base_parameters": {"day": "monday"},
    }
    assert notebook["new_cluster"]["num_workers"] == 2 and "spark_python_task" not in notebook


def test_the_template_of_a_production_workflow_is_taken(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ENTRYPOINTS:
        monkeypatch.setitem(ENTRYPOINTS, file, "")
    template = json.loads((Path(__file__).parent / "databricks_template.json").read_text())
    template["custom"]["databricksInstance"] = f"https://{server.instance.upper()}/"
    run = create(Databricks(), filled(template))
    assert run.instance == server.instance and run.secret == "databricks-token"
    assert server.requests[0]["max_retries"] == 1


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("on_kubernetes", {}, "has no databricks_conf"),
        ("area", {"databricksConf": {"run_name": "x"}}, "nothing of what to run on"),
        ("area", {"databricksInstance": "http://x"}, "plain http"),
        ("area", {"databricksInstance": "user:password@x"}, "is no host"),
        ("area", {"databricksInstance": "evil.example"}, "does not talk to Databricks instance 'evil.example'"),
        ("area", {"databricksInstance": "127.0.0.1:1#@evil"}, "is no host"),
        ("area", {"databricksTokenSecret": "aws-root"}, "may not name secret 'aws-root'"),
        ("area", {"databricksTokenSecret": "databricks-other"}, "secret token of group databricks-other is neither"),
        ("area", {"databricksAuthType": "basic"}, "'basic'; it is one of pat, oauth_m2m, oidc_federation"),
        ("area", {"databricksAuthType": "oidc_federation", "databricksOidcTokenFile": "/etc/passwd"}, "/etc/passwd"),
        ("area", {"databricksConf": {"new_cluster": {"num_workers": 1.5}}}, "MALFORMED_REQUEST"),
    ],
)
def test_a_task_that_cannot_run_is_its_authors_failure(
    server: Server, templates: dict[str, Any], name: str, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        create(Databricks(), filled(templates[name], **change))
    assert not server.runs


def test_arguments_that_nobody_filled_in_are_refused(server: Server, templates: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"argument \{\{.input\}\} is not filled in"):
        create(Databricks(), templates["area"])
    secret = short()
    own = ["{{secrets/scope/key}}", "{{ .mine }}"]  # which propeller knows nothing of
    secret["container"]["args"] += own
    create(Databricks(), secret)
    assert server.requests[0]["spark_python_task"]["parameters"][-2:] == own


# ---- states


def test_every_state_of_the_vendors_client_has_a_meaning() -> None:
    from databricks.sdk.service.jobs import RunLifeCycleState, RunResultState, TerminationCodeCode, TerminationTypeType

    def status(life: str, result: str = "", code: str = "", kind: str = "") -> JobStatus:
        run: dict[str, Any] = {"run_id": 1, "state": {"life_cycle_state": life, "result_state": result}}
        run["status"] = {"termination_details": {"code": code, "type": kind}}
        return status_of(run, "x")

    waits = {
        life.value: status(life.value).state.value
        for life in RunLifeCycleState
        if life.value not in ("TERMINATED", "SKIPPED", "INTERNAL_ERROR")
    }
    assert waits == {
        "BLOCKED": "WAITING_FOR_RESOURCES",
        "PENDING": "INITIALIZING",
        "QUEUED": "QUEUED",
        "RUNNING": "RUNNING",
        "TERMINATING": "RUNNING",
        "WAITING_FOR_RETRY": "WAITING_FOR_RESOURCES",
    }
    ends = {result.value: status("TERMINATED", result.value) for result in RunResultState}
    assert {name: one.state.value for name, one in ends.items()} == {
        "CANCELED": "ABORTED",
        "DISABLED": "FAILED",
        "EXCLUDED": "FAILED",
        "FAILED": "FAILED",
        "MAXIMUM_CONCURRENT_RUNS_REACHED": "FAILED",
        "SUCCESS": "SUCCEEDED",
        "SUCCESS_WITH_FAILURES": "SUCCEEDED",
        "TIMEDOUT": "FAILED",
        "UPSTREAM_CANCELED": "FAILED",
        "UPSTREAM_FAILED": "FAILED",
    }
    assert "SUCCESS_WITH_FAILURES" in ends["SUCCESS_WITH_FAILURES"].message
    assert ends["TIMEDOUT"].recoverable and isinstance(ends["TIMEDOUT"].error, UserError)
    assert isinstance(ends["MAXIMUM_CONCURRENT_RUNS_REACHED"].error, Overloaded)
    assert isinstance(ends["UPSTREAM_FAILED"].error, UserError)
    for life in ("SKIPPED", "INTERNAL_ERROR"):
        for result in ("", *(one.value for one in RunResultState)):
            assert status(life, result).state.is_final and status(life, result).state != JobState.SUCCEEDED, (life, result)

    # Whose failure it was: U the user's, S the system's, L a limit, and - the task's own code, where error.pb tells.
    def whose(code: str, kind: str = "") -> str:
        error = status("TERMINATED", "FAILED", code, kind).error
        return "-" if error is None else "L" if isinstance(error, Overloaded) else "U" if isinstance(error, UserError) else "S"

    expected = {
        "-": "RUN_EXECUTION_ERROR SUCCESS SUCCESS_WITH_FAILURES USER_CANCELED",
        "U": "BREAKING_CHANGE BUDGET_POLICY_LIMIT_EXCEEDED DISABLED FEATURE_DISABLED INVALID_CLUSTER_REQUEST INVALID_RUN_CONFIGURATION"
        " LIBRARY_INSTALLATION_ERROR RESOURCE_NOT_FOUND SKIPPED UNAUTHORIZED_ERROR",
        "S": "CANCELED CLOUD_FAILURE CLUSTER_ERROR DRIVER_ERROR INTERNAL_ERROR REPOSITORY_CHECKOUT_FAILED STORAGE_ACCESS_ERROR",
        "L": "CLUSTER_REQUEST_LIMIT_EXCEEDED MAX_CONCURRENT_RUNS_EXCEEDED MAX_JOB_QUEUE_SIZE_EXCEEDED MAX_SPARK_CONTEXTS_EXCEEDED"
        " WORKSPACE_RUN_LIMIT_EXCEEDED",
    }
    assert {code.value: whose(code.value) for code in TerminationCodeCode} == {
        code: kind for kind, codes in expected.items() for code in codes.split()
    }
    kinds = {kind.value: whose("NEW_CODE", kind.value) for kind in TerminationTypeType}
    assert kinds == {"CLIENT_ERROR": "U", "CLOUD_FAILURE": "S", "INTERNAL_ERROR": "S", "SUCCESS": "-"}
    assert whose("CLUSTER_ERROR", "CLIENT_ERROR") == "U"  # such as an init script
    assert whose("RUN_EXECUTION_ERROR", "CLIENT_ERROR") == "-"
    assert isinstance(status("INTERNAL_ERROR", "FAILED", "INVALID_CLUSTER_REQUEST", "CLIENT_ERROR").error, UserError)
    assert status("TERMINATED", "CANCELED", "USER_CANCELED").state == JobState.ABORTED
    by_platform = status("TERMINATED", "CANCELED", "CANCELED")
    assert by_platform.state == JobState.FAILED and not isinstance(by_platform.error, UserError)


@pytest.mark.parametrize(
    "run",
    [
        {"state": {"life_cycle_state": "HIBERNATING", "result_state": "SUCCESS"}},
        {"state": {"life_cycle_state": "TERMINATED", "result_state": "HIBERNATING"}},
        {"status": {"state": "HIBERNATING"}},
    ],
)
def test_a_state_that_is_not_known_waits_and_is_named(run: dict[str, Any]) -> None:
    status = status_of(run, "x")
    assert status.state == JobState.RUNNING and "HIBERNATING" in status.message
    for nothing in ({}, {"state": {"life_cycle_state": "TERMINATED"}}):
        assert status_of(nothing, "x").state == JobState.RUNNING


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ({"state": "QUEUED", "queue_details": {"message": "no room"}}, "QUEUED"),
        ({"state": "WAITING"}, "WAITING_FOR_RESOURCES"),
        ({"state": "TERMINATED", "termination_details": {"code": "SUCCESS"}}, "SUCCEEDED"),
        ({"state": "TERMINATED", "termination_details": {"code": "USER_CANCELED"}}, "ABORTED"),
        ({"state": "TERMINATED", "termination_details": {"code": "CLUSTER_ERROR"}}, "FAILED"),
    ],
)
def test_the_newer_status_is_read_where_there_is_no_state(status: dict[str, Any], state: str) -> None:
    found = status_of({"status": status}, "x")
    assert found.state.value == state
    assert state != "QUEUED" or found.message == "QUEUED: no room"


def test_a_run_that_takes_too_long_may_be_tried_again(server: Server) -> None:
    template = short(60)
    template["custom"]["databricksConf"]["timeout_seconds"] = 1
    plugin = Databricks()
    run = create(plugin, template)
    status = eventually(lambda: (found := poll(plugin, run)).state.is_final and found)
    assert status.state == JobState.FAILED and status.error.reason == "TIMEDOUT" and status.recoverable
