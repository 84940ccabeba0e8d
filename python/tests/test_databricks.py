"""The Databricks plugin against databricks_server.py, with tasks that flytekit serialised."""

from __future__ import annotations

import asyncio
import functools
import io
import json
import logging
import os
import subprocess
import sys
import tarfile
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from flyte_backend import (
    BackendError,
    BackendPluginBase,
    BackendPluginRegistry,
    Code,
    ConfigurationError,
    JobRef,
    JobState,
    JobStatus,
    NotFound,
    Overloaded,
    Retry,
    Secrets,
    TaskInfo,
    Unauthenticated,
    UserError,
)
from flyte_backend.testing import serve as serve_plugin

from .conftest import PYTHON, Start, eventually
from .databricks_server import CLIENT_ID, CLIENT_SECRET, ENTRYPOINTS, SUBJECT_TOKEN, TOKEN, Fault, environment, serve
from .databricks_server import Databricks as Server

with BackendPluginRegistry.isolated():  # what the module registers is for flyte-backend-serve
    from flyte_backend.plugins.databricks import Databricks, Run, Settings
    from flyte_backend.plugins.databricks._settings import host_of
    from flyte_backend.plugins.databricks._states import status_of

T = TypeVar("T")
METADATA = {
    "taskExecutionId": {
        "nodeExecutionId": {"nodeId": "n0", "executionId": {"project": "p", "domain": "d", "name": "exec1"}},
        "retryAttempt": 1,
    },
    "environmentVariables": {"FLYTE_K8S_ARRAY_INDEX": "3"},
}


@pytest.fixture(scope="module")
def databricks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    env = {"PYTHONPATH": str(PYTHON)}
    with serve(tmp_path_factory.mktemp("databricks"), env=env) as (server, ca):
        yield server, ca


@pytest.fixture
def server(databricks: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server, ca = databricks
    for name in [name for name in os.environ if "DATABRICKS" in name]:
        monkeypatch.delenv(name)
    for name, value in environment(server, ca).items():
        monkeypatch.setenv(name, value)
    yield server
    server.forget()


@pytest.fixture(scope="module")
def templates() -> dict[str, Any]:
    """The tasks of databricks_tasks.py, as flytekit registers them."""
    from flytekit.configuration import ImageConfig, SerializationSettings
    from flytekit.tools.translator import get_serializable
    from google.protobuf.json_format import MessageToDict

    from . import databricks_tasks

    settings = SerializationSettings(project="p", domain="d", version="v1", image_config=ImageConfig.auto_default_image())
    names = ("area", "failing", "in_default_environment", "older", "on_kubernetes", "on_a_cluster", "serverless", "notebook")
    tasks = {name: getattr(databricks_tasks, name) for name in names}
    return {
        name: MessageToDict(get_serializable(OrderedDict(), settings, task).template.to_flyte_idl())
        for name, task in tasks.items()
    }


def rendered(template: dict[str, Any], folder: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    """The template with its arguments as propeller fills them in, and the inputs where they say that they are."""
    from flytekit.core.context_manager import FlyteContextManager
    from flytekit.core.type_engine import TypeEngine
    from flytekit.core.utils import write_proto_to_file

    folder.mkdir(exist_ok=True)
    context = FlyteContextManager.current_context()
    literals = TypeEngine.dict_to_literal_map(context, inputs)
    write_proto_to_file(literals.to_flyte_idl(), str(folder / "inputs.pb"))
    values = {
        "{{.input}}": str(folder / "inputs.pb"),
        "{{.outputPrefix}}": str(folder / "out"),
        "{{.rawOutputDataPrefix}}": str(folder / "raw"),
        "{{.checkpointOutputPrefix}}": str(folder / "checkpoints"),
        "{{.prevCheckpointPrefix}}": '""',
    }
    args = [values.get(arg, arg) for arg in template["container"]["args"]]
    return {**template, "container": {**template["container"], "args": args}}


def filled(template: dict[str, Any], **custom: Any) -> dict[str, Any]:
    """The template with arguments that say nothing, and more in its custom."""
    args = ["x" for _ in template["container"]["args"]]
    return {**template, "container": {**template["container"], "args": args}, "custom": {**template["custom"], **custom}}


def short(seconds: float = 0, code: int = 0) -> dict[str, Any]:
    """A template whose run is a process that does next to nothing: a file of the workspace, without flytekit."""
    return {
        "type": "databricks",
        "custom": {"databricksConf": {"existing_cluster_id": "c1", "python_file": str(SCRIPT)}},
        "container": {"args": [str(seconds), str(code)]},
    }


SCRIPT = Path(__file__).parent / "plugins" / "databricks_script.py"


def ask(plugin: Databricks, *calls: Callable[[], Awaitable[T]]) -> list[T]:
    """Make calls of a plugin, all at once, in a loop of their own."""

    async def work() -> list[T]:
        try:
            return await asyncio.gather(*(call() for call in calls))
        finally:
            await plugin.close()

    return asyncio.run(work())


def create(plugin: Databricks, template: dict[str, Any], key: str = "k", **more: Any) -> Run:
    return ask(plugin, lambda: plugin.create(TaskInfo(template, idempotency_key=key, **more)))[0]


def poll(plugin: Databricks, run: Run, secrets: Secrets | None = None) -> JobStatus:
    return ask(plugin, lambda: plugin.poll(run, secrets or Secrets()))[0]


def finish(server: Server, run: Run) -> None:
    """Wait until its process has ended."""
    process = server.runs[run.run_id].process
    assert process is not None
    process.wait(60)


def poll_many(plugin: Databricks, runs: list[Run]) -> list[JobStatus | BackendError]:
    return ask(plugin, lambda: plugin.poll_many([JobRef(run) for run in runs], Secrets()))[0]


def states(results: list[JobStatus | BackendError]) -> list[str]:
    return [result.state.value if isinstance(result, JobStatus) else result.code.value for result in results]


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
    with pytest.raises(BackendError, match="no Databricks token") as raised:
        poll(plugin, run, secrets)
    assert raised.value.code == Code.INTERNAL  # the run goes on
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
