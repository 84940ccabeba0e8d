"""flytekit's connectors as plugins: real ones of flytekit's and its plugins', with templates that flytekit serialised, over REST and
gRPC."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flyte_backend import (
    BackendError,
    BackendPluginRegistry,
    FailedPrecondition,
    NotFound,
    Overloaded,
    PluginError,
    Retry,
    SystemError_,
    Unimplemented,
    UnknownError,
    UserError,
)
from flyte_backend._errors import PermissionDenied
from flyte_backend.connectors import connector_plugin, register_connectors
from flyteidl.admin import agent_pb2
from flyteidl.core import execution_pb2, literals_pb2, tasks_pb2
from google.protobuf import json_format

from .conftest import PYTHON, ROOT, Authority, Process, Start, eventually
from .connector_calls import Calls, OverGRPC, OverREST, struct
from .connector_vendors import BigQuery, Databricks, Hook, google_credentials
from .plugins.jobs import Jobs

Phase = execution_pb2.TaskExecution


@dataclass
class World:
    """A process of flyte-backend-serve with connectors, and the vendors that they call."""

    process: Process
    rest: OverREST
    grpc: OverGRPC
    bigquery: BigQuery
    databricks: Databricks
    hook: Hook
    folder: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("connectors")
    authority = Authority(folder / "authority")
    (folder / "secrets/vault").mkdir(parents=True)
    (folder / "secrets/vault/key").write_text("twelve bytes")
    bigquery, databricks, hook = BigQuery(), Databricks(), Hook()
    with contextlib.ExitStack() as stack:
        for vendor, certificate in ((bigquery, None), (hook, None), (databricks, authority.issue("databricks"))):
            stack.enter_context(vendor.serving(certificate))
        own = "from flyte_backend.connectors import register_connectors\nregister_connectors('flytekit')\n"
        (folder / "own.py").write_text(own)
        modules = ("flytekitplugins.bigquery", "flytekitplugins.spark", "tests.plugins.connectors")
        popen = subprocess.Popen(
            [sys.executable, "-m", "flyte_backend._serve", "--log-format", "json", "--insecure", "--port", "0"]
            + ["--plugins", "own", "--readiness-delay", "0", "--grpc-port", "0", "--secrets-dir", str(folder / "secrets")]
            + [word for module in modules for word in ("--connectors", module)],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": str(PYTHON),
                "HOME": str(folder),
                "JOBS_FOLDER": str(folder / "jobs"),
                "BIGQUERY_EMULATOR_HOST": bigquery.url,
                "GOOGLE_APPLICATION_CREDENTIALS": str(google_credentials(folder, bigquery.url)),
                "FLYTE_DATABRICKS_INSTANCE": databricks.url.removeprefix("https://"),
                "SSL_CERT_FILE": str(authority.ca),
                "_FSEC_FLYTE_DATABRICKS_ACCESS_TOKEN": "of-loopback",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        process = Process(popen)
        threading.Thread(target=process.read, daemon=True).start()
        try:
            process.about = process.wait_for("serving")
            grpc = OverGRPC(f"127.0.0.1:{process.about['grpc_port']}")
            rest = OverREST(process.url)
            with rest.client, grpc.channel:
                yield World(process, rest, grpc, bigquery, databricks, hook, folder)
            popen.send_signal(signal.SIGTERM)
            assert popen.wait(30) == 0
        finally:
            popen.kill()
            popen.wait()
            assert popen.stderr is not None
            popen.stderr.close()


@pytest.fixture(params=["rest", "grpc"])
def calls(request: pytest.FixtureRequest, world: World) -> Calls:
    found: Calls = getattr(world, request.param)
    return found


@pytest.fixture(scope="module")
def tasks() -> Any:
    from .plugins import connector_tasks

    return connector_tasks


def literals(**values: Any) -> Any:
    from flyte_backend._values import encode_outputs

    return json_format.ParseDict(encode_outputs(values), literals_pb2.LiteralMap())


def ended(calls: Calls, task_type: str, job: bytes) -> Any:
    """The job's last state."""

    def look() -> Any:
        resource = calls.poll(task_type, job)
        return resource if resource.phase not in (Phase.RUNNING, Phase.INITIALIZING, Phase.QUEUED) else None

    return eventually(look, 20)


# ---- real connectors


def test_sensor(calls: Calls, tasks: Any, tmp_path: Path) -> None:
    """flytekit's FileSensor: the file appears, and the task succeeds."""
    file = tmp_path / "it is here"
    job = calls.create(tasks.template_of(tasks.sensor()), literals(path=str(file)))
    assert b"FileSensor" in job
    assert calls.poll("sensor", job).phase == Phase.RUNNING
    file.touch()
    assert calls.poll("sensor", job).phase == Phase.SUCCEEDED
    calls.delete("sensor", job)


def test_webhook(calls: Calls, tasks: Any, world: World) -> None:
    """In one call. The outputs are Python values, of the type that the task declares."""
    world.hook.calls.clear()
    found = calls.execute(tasks.template_of(tasks.webhook(f"{world.hook.url}/hook")), literals(who="Ada"))
    assert found.phase == Phase.SUCCEEDED
    assert found.message == "Webhook was successfully invoked!"
    ((method, path, _, body, _),) = world.hook.calls
    assert (method, path, body) == ("POST", "/hook", {"text": "hello Ada"})
    from flytekit import FlyteContextManager
    from flytekit.core.type_engine import TypeEngine
    from flytekit.models.literals import Literal

    literal = Literal.from_flyte_idl(found.outputs.literals["info"])
    info = TypeEngine.to_python_value(FlyteContextManager.current_context(), literal, dict)
    assert info == {"status_code": 200, "response_data": '"taken"', "input_data": {"text": "hello Ada"}}
    refused = calls.execute(tasks.template_of(tasks.webhook(f"{world.hook.url}/refused")), literals(who="Ada"))
    assert refused.phase == Phase.FAILED
    assert "500" in refused.message


def test_bigquery(calls: Calls, tasks: Any, world: World) -> None:
    template = tasks.template_of(tasks.query("select @version"))
    job = calls.create(template, literals(version=3))
    job_id = json.loads(job)["job_id"]
    sent = world.bigquery.jobs[job_id]["configuration"]["query"]
    assert sent["query"] == "select @version"
    assert sent["queryParameters"][0]["parameterValue"] == {"value": "3"}
    first = calls.poll(template.type, job)
    assert (first.phase, first.message) == (Phase.RUNNING, "RUNNING")
    found = ended(calls, template.type, job)
    assert found.phase == Phase.SUCCEEDED
    assert [link.name for link in found.log_links] == ["BigQuery Console"]
    assert job_id in found.log_links[0].uri
    assert found.outputs.literals["results"].scalar.structured_dataset.uri == "bq://p:d.t"


def test_bigquery_fails(calls: Calls, tasks: Any, world: World) -> None:
    template = tasks.template_of(tasks.query("fail"))
    found = ended(calls, template.type, calls.create(template, literals(version=3)))
    assert found.phase == Phase.FAILED
    assert "division by zero" in found.message
    assert not found.agent_error.code  # propeller then looks for error.pb
    with pytest.raises(UserError, match="BadRequest: 400 .*Syntax error"):
        calls.create(tasks.template_of(tasks.query("syntax error")), literals(version=3))
    lines = [json.loads(line) for line in world.process.lines]  # the connector's log is in the service's form
    logged = [line["level"] for line in lines if line["message"] == "failed to run BigQuery job with error:"]
    assert set(logged) == {"ERROR"}
    lost = json.dumps({"job_id": "lost", "project": "p", "location": "EU"}).encode()
    with pytest.raises(NotFound, match="Not found: Job lost"):
        calls.poll(template.type, lost)
    calls.delete(template.type, lost)


def test_bigquery_is_cancelled(calls: Calls, tasks: Any, world: World) -> None:
    template = tasks.template_of(tasks.query("slow"))
    job = calls.create(template, literals(version=3))
    calls.delete(template.type, job)
    assert world.bigquery.jobs[json.loads(job)["job_id"]]["cancelled"]


def test_databricks(calls: Calls, tasks: Any, world: World) -> None:
    """Over TLS, with a token that flytekit's secrets have."""
    template = tasks.template_of(tasks.spark_job)
    assert template.type == "databricks"
    world.databricks.calls.clear()
    job = calls.create(template, literals(x=1), prefix="s3://b/p")
    ((_, _, _, body, token),) = world.databricks.calls
    assert token == "Bearer of-loopback"
    assert body["new_cluster"]["docker_image"] == {"url": "image.example/spark:1"}
    assert body["spark_python_task"]["parameters"] == list(template.container.args)
    assert calls.poll(template.type, job).message == "In run"
    found = ended(calls, template.type, job)
    assert found.phase == Phase.SUCCEEDED
    assert [link.name for link in found.log_links] == ["Databricks Console"]
    assert not found.HasField("outputs")  # the job has written them
    other = calls.create(template, literals(x=1))
    calls.delete(template.type, other)
    assert calls.poll(template.type, other).phase == Phase.FAILED


# ---- what a connector gets


def everything() -> Any:
    """A template with every field that flytekit's model has."""
    template = json_format.Parse((ROOT / "testdata/templates/sqlite_elements.json").read_text(), tasks_pb2.TaskTemplate())
    more = {
        "type": "connector_mirror",
        "taskTypeVersion": 3,
        "custom": {"n": 1, "nested": {"list": [1.5, None, True, "grüße"]}, "text": "x"},
        "config": {"user": "a"},
        "securityContext": {
            "secrets": [{"group": "vault", "key": "key", "mountRequirement": "ENV_VAR"}],
            "runAs": {"iamRole": "role"},
        },
        "extendedResources": {"gpuAccelerator": {"device": "nvidia-tesla-a100", "partitionSize": "1g.5gb"}},
    }
    return json_format.ParseDict(more, template)


TARGETS: dict[str, dict[str, Any]] = {
    "container": {
        "container": {
            "image": "image.example/x:1",
            "command": ["run"],
            "args": ["--inputs", "{{.input}}", "é"],
            "env": [{"key": "A", "value": "b"}],
            "resources": {"requests": [{"name": "CPU", "value": "1"}], "limits": [{"name": "MEMORY", "value": "1Gi"}]},
        }
    },
    "sql": {"sql": {"statement": "select '\u2028'", "dialect": "HIVE"}},
    "k8s_pod": {
        "k8sPod": {"metadata": {"labels": {"a": "b"}}, "podSpec": {"containers": [{"name": "m"}]}, "primaryContainerName": "m"}
    },
}


@pytest.mark.parametrize("target", TARGETS)
def test_task_comes_through(calls: Calls, world: World, target: str) -> None:
    """Template, inputs and metadata are what the same messages are to flytekit, whichever way they came."""
    from flytekit.models.literals import LiteralMap
    from flytekit.models.task import TaskExecutionMetadata, TaskTemplate

    template = everything()
    for field in ("container", "sql", "k8s_pod"):
        template.ClearField(field)
    json_format.ParseDict(TARGETS[target], template)
    assert template.WhichOneof("target") == target
    inputs = literals(i=1, f=1.5, s="x", b=b"\x00\xff", l=[1, 2], d={"a": [None]}, n=None)
    identity = {"iamRole": "role", "k8sServiceAccount": "sa", "executionIdentity": "me"}
    where = {"taskExecutionId": {"taskId": {"name": "t"}, "nodeExecutionId": {"nodeId": "n0"}, "retryAttempt": 2}}
    about = {"namespace": "p-d", "labels": {"a": "b"}, "annotations": {"c": "d"}, "environmentVariables": {"E": "f"}}
    metadata = json_format.ParseDict({**where, **about, "identity": identity}, agent_pb2.TaskExecutionMetadata())
    job = calls.create(template, inputs, prefix="s3://b/p", metadata=metadata)
    assert job[:1] == b"\xff"
    folder = world.folder / "jobs"
    for name, model, message in (
        ("mirror.pb", TaskTemplate, template),
        ("mirror_inputs.pb", LiteralMap, inputs),
        ("mirror_metadata.pb", TaskExecutionMetadata, metadata),
    ):
        due = model.from_flyte_idl(message).to_flyte_idl()
        assert type(due).FromString((folder / name).read_bytes()) == due
    seen = json_format.MessageToDict(calls.poll("connector_mirror", job, prefix="s3://b/q").custom_info)
    assert seen == {
        "output_prefix": "s3://b/p",
        "polled_prefix": "s3://b/q",
        "more": [],
        "secret_length": len("twelve bytes"),
        "thread": "MainThread",
    }
    calls.delete("connector_mirror", job)


def test_idempotency_key(calls: Calls) -> None:
    """Goes to a connector that names it."""
    template, key = tasks_pb2.TaskTemplate(type="connector_square"), f"key of {type(calls).__name__}".replace(" ", "-")
    first = calls.create(template, literals(x=3), key=key)
    assert calls.create(template, literals(x=3), key=key) == first
    assert calls.create(template, literals(x=3)) != first


def test_versions(calls: Calls) -> None:
    """A connector of a version gets its tasks; the one of version 0 all others."""
    found = {}
    for version in (0, 1, 2):
        job = calls.create(tasks_pb2.TaskTemplate(type="connector_versions", task_type_version=version), literals(x=3))
        found[version] = calls.poll("connector_versions", job, version=version).message
    assert found == {0: "squaring", 1: "squaring", 2: "version 2 squaring"}


def test_ids_that_are_none(calls: Calls) -> None:
    for job in (b"\xff\xfe", b"{}", b"[]", b'{"job": 7}', b'{"job": "a", "more": 1}', b"7"):
        with pytest.raises(NotFound):
            calls.poll("connector_square", job)
        calls.delete("connector_square", job)


# ---- what a connector gives


def give(calls: Calls, **custom: Any) -> Any:
    template = tasks_pb2.TaskTemplate(type="connector_giver", custom=struct(**custom))
    return calls.poll("connector_giver", calls.create(template))


@pytest.mark.parametrize(
    "phase",
    ["QUEUED", "WAITING_FOR_RESOURCES", "INITIALIZING", "RUNNING", "SUCCEEDED", "FAILED", "RETRYABLE_FAILED", "ABORTED"],
)
def test_phases(calls: Calls, phase: str) -> None:
    found = give(calls, phase=phase, message="so it is")
    assert Phase.Phase.Name(found.phase) == phase
    assert found.message == "so it is"
    assert [(link.name, link.uri) for link in found.log_links] == [("Console", "https://x.example/1")]
    info = json_format.MessageToDict(found.custom_info)
    assert info["n"] == 1
    assert info["text"].startswith("flyte-backend")  # a plain method has a thread


def test_no_phase(calls: Calls) -> None:
    with pytest.raises(SystemError_, match="phase 0, which is none"):
        give(calls, phase="UNDEFINED")


FIVE = {"scalar": {"primitive": {"integer": "5"}}}
TABLE = {"scalar": {"structuredDataset": {"uri": "bq://p:d.t", "metadata": {"structuredDatasetType": {}}}}}


@pytest.mark.parametrize(
    ("outputs", "due"),
    [
        ("empty", {}),
        ("literal_map", {"o": FIVE}),
        ("literal", {"o": FIVE}),
        ("table", {"o": TABLE}),
        ("tables", {"o": {"collection": {"literals": [TABLE]}}}),
    ],
)
def test_outputs(calls: Calls, outputs: str, due: Any) -> None:
    found = give(calls, phase="SUCCEEDED", outputs=outputs)
    assert found.HasField("outputs")
    assert json_format.MessageToDict(found.outputs).get("literals", {}) == due


def test_python_outputs(calls: Calls) -> None:
    """Of plain values, lists among them, which flytekit's own service cannot give, and of a dataclass."""
    from flyte_backend._values import decode_literals

    found = json_format.MessageToDict(give(calls, phase="SUCCEEDED", outputs="values").outputs)
    assert decode_literals(found["literals"]) == {"i": 1, "f": 1.5, "s": "x", "l": [1, 2], "n": None, "d": {"a": [1]}}
    found = json_format.MessageToDict(give(calls, phase="SUCCEEDED", outputs="dataclass").outputs)
    assert decode_literals(found["literals"]) == {"o": {"a": 1, "b": ["x"]}}


def test_no_outputs(calls: Calls) -> None:
    assert not give(calls, phase="SUCCEEDED").HasField("outputs")
    for outputs, error in (("text", "a LiteralMap or a dict"), ("bad", "o: no literal can be made of a lock")):
        with pytest.raises(SystemError_, match=error):
            give(calls, phase="SUCCEEDED", outputs=outputs)


@pytest.mark.parametrize(("declared", "due"), [("FLOAT", {"floatValue": 2.0}), ("INTEGER", {"integer": "2"})])
def test_declared_outputs(calls: Calls, declared: str, due: Any) -> None:
    """A synchronous task's outputs are of the types that it declares."""
    template = tasks_pb2.TaskTemplate(type="connector_giver_now", custom=struct(phase="SUCCEEDED", outputs="number"))
    json_format.ParseDict({"outputs": {"variables": {"o": {"type": {"simple": declared}}}}}, template.interface)
    found = json_format.MessageToDict(calls.execute(template).outputs)
    assert found == {"literals": {"o": {"scalar": {"primitive": due}}}}


def test_logs_and_metrics(calls: Calls) -> None:
    job = calls.create(tasks_pb2.TaskTemplate(type="connector_square"))
    assert calls.logs("connector_square", job) == ([("it began\n", True)], "1")
    assert calls.logs("connector_square", job, token="1") == ([("it ended\n", False)], "")
    assert calls.logs("connector_versions", job, version=2, lines=2)[0] == [("0\n", False), ("1\n", False)]
    assert calls.metrics("connector_square", job, ["m"]) == {"m": {"resultType": "matrix", "result": []}}
    with pytest.raises(NotFound):
        calls.logs("connector_square", b'{"job": "a"}')
    mirror = calls.create(tasks_pb2.TaskTemplate(type="connector_mirror"))
    with pytest.raises(Unimplemented):
        calls.logs("connector_mirror", mirror)
    with pytest.raises(Unimplemented):
        calls.metrics("connector_mirror", mirror, [])


# What is raised, what it is when a job is begun, and when it is looked at.
ERRORS: dict[str, tuple[type[BackendError], type[BackendError]]] = {
    "user": (UserError, UserError),
    "gone": (FailedPrecondition, NotFound),
    "404": (FailedPrecondition, NotFound),
    "400": (UserError, UnknownError),
    "403": (PermissionDenied, UnknownError),
    "401": (UnknownError, UnknownError),
    "429": (Overloaded, Overloaded),
    "503": (Retry, Retry),
    "500": (UnknownError, UnknownError),
    "refused": (Retry, Retry),
    "plain": (UnknownError, UnknownError),
    "file": (UnknownError, UnknownError),
}


@pytest.mark.parametrize("raised", ERRORS)
def test_errors(calls: Calls, raised: str) -> None:
    begun, looked_at = ERRORS[raised]
    template = tasks_pb2.TaskTemplate(type="connector_giver", custom=struct(at="create", error=raised))
    now = tasks_pb2.TaskTemplate(type="connector_giver_now", custom=struct(error=raised))
    job = calls.create(tasks_pb2.TaskTemplate(type="connector_giver", custom=struct(error=raised)))
    errors = []
    for call in (
        lambda: calls.create(template),
        lambda: calls.execute(now),
        lambda: calls.poll("connector_giver", job),
    ):
        with pytest.raises(BackendError) as caught:
            call()
        errors.append(caught.value)
    assert [type(e) for e in errors] == [begun, begun, looked_at]
    for error in errors:
        assert "Traceback" not in error.message
        assert 'File "' not in error.message
    assert {"plain": "ValueError: something is odd", "404": "VendorError: the vendor said 404"}.get(raised) in (
        None,
        errors[0].message,
    )
    if looked_at is NotFound:
        calls.delete("connector_giver", job)
    else:
        with pytest.raises(looked_at):
            calls.delete("connector_giver", job)


def test_contexts_do_not_mix(calls: Calls) -> None:
    """flytekit keeps its contexts in a list that calls would share."""
    with ThreadPoolExecutor(16) as threads:
        template = tasks_pb2.TaskTemplate(type="connector_giver_too", custom=struct(phase="RUNNING"))
        jobs = list(threads.map(lambda _: calls.create(template), range(64)))
    assert all(json.loads(job)["phase"] == "RUNNING" for job in jobs)


# ---- what is served


def test_says_what_is_served(world: World) -> None:
    import flytekit

    assert world.process.about["flytekit"] == flytekit.__version__
    plugins = world.process.about["plugins"].split(", ")
    assert {"sensor v1", "webhook v1", "bigquery_query_job_task v1", "spark v1", "databricks v1"} <= set(plugins)
    assert "snowflake v1" not in plugins  # it is installed, and nobody asked for it
    listed = world.rest.client.get("").json()["plugins"]
    squares = [p for p in listed if p["task_type"] == "connector_versions"]
    assert [(p["task_type_versions"], p["capabilities"]) for p in squares] == [
        ([], ["logs", "metrics"]),
        ([2], ["logs"]),
    ]
    from flyteidl.service import agent_pb2_grpc

    metadata = agent_pb2_grpc.AgentMetadataServiceStub(world.grpc.channel)
    agents = {a.name: a for a in metadata.ListAgents(agent_pb2.ListAgentsRequest(), timeout=10).agents}
    categories = [(c.name, c.version) for c in agents["Databricks Connector"].supported_task_categories]
    assert categories == [("spark", 0), ("databricks", 0)]
    assert agents["Webhook Connector"].is_sync


def test_registering(tasks: Any) -> None:
    def types(plugins: Any) -> list[str]:
        return [plugin.task_type for plugin in plugins]

    with BackendPluginRegistry.isolated():
        assert types(register_connectors("flytekitplugins.bigquery")) == ["bigquery_query_job_task"]
        assert types(register_connectors("flytekit")) == ["sensor", "webhook"]
        assert types(register_connectors("flytekitplugins")) == ["spark", "databricks", "snowflake"]
        assert register_connectors("flytekit", "flytekitplugins") == []  # they are registered
        assert types(BackendPluginRegistry.plugins())[:2] == ["bigquery_query_job_task", "sensor"]
    with BackendPluginRegistry.isolated():
        assert {"sensor", "webhook", "snowflake", "databricks"} <= set(types(register_connectors(version="v2")))
        assert {plugin.version for plugin in BackendPluginRegistry.plugins()} == {"v2"}
    from flytekit.sensor.sensor_engine import SensorEngine

    with BackendPluginRegistry.isolated():
        assert types(register_connectors(SensorEngine())) == ["sensor"]
        with pytest.raises(PluginError, match=r"SensorEngine is registered twice for task type 'sensor'"):
            register_connectors(SensorEngine())
    with BackendPluginRegistry.isolated():
        own = Jobs()
        own.task_type = "sensor"
        BackendPluginRegistry.register(own)
        with pytest.raises(PluginError, match=r"'sensor' .*: tests.plugins.jobs.Jobs and flytekit.sensor.sensor_engine.Sens"):
            register_connectors("flytekit")
    with pytest.raises(PluginError, match="is neither an AsyncConnectorBase nor a SyncConnectorBase"):
        connector_plugin(SensorEngine)


def test_run(flyte_backend_run: Any) -> None:
    """A connector in a unit test."""
    from .plugins.connectors import Square, SquareNow

    for over_http in (False, True):
        assert flyte_backend_run(connector_plugin(Square()), {"x": 3}, over_http=over_http) == {"o0": 9}
        assert flyte_backend_run(connector_plugin(SquareNow()), {"x": 4}, over_http=over_http) == {"o0": 16}


TWICE = """
from flytekit.extend.backend.base_connector import ConnectorRegistry
from flytekit.sensor.sensor_engine import SensorEngine

ConnectorRegistry.register(SensorEngine())
"""

MODULES = {"broken": "1 / 0", "needy": "import sqlalchemy_of_mars", "idle": "", "twice": TWICE}


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (
            "flytekitplugins.nowhere",
            "there is no module 'flytekitplugins.nowhere' on the path; pip install flytekitplugins-nowhere",
        ),
        ("nowhere", "there is no module 'nowhere' on the path (the working directory, {cwd}, is on it)"),
        (
            "broken",
            "connector module 'broken' cannot be imported: ZeroDivisionError: division by zero ({tmp}/broken.py, line 1)",
        ),
        ("needy", "connector module 'needy' cannot be imported: it needs the module 'sqlalchemy_of_mars'"),
        ("idle", "module 'idle' registered no connector: it calls flytekit's ConnectorRegistry.register(…)"),
        (
            "twice",
            "connector module 'twice' cannot be imported: ValueError: Duplicate connector for task type: sensor_v0 "
            "({tmp}/twice.py, line 5)",
        ),
    ],
)
def test_modules_that_cannot_be_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, says: str) -> None:
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with BackendPluginRegistry.isolated(), pytest.raises(PluginError) as caught:
        register_connectors("flytekit", module)
    assert str(caught.value) == says.format(cwd=Path.cwd(), tmp=tmp_path)
    sys.modules.pop(module, None)


def test_start_up_stops_with_one_line(start: Start) -> None:
    process = start("--insecure", "--connectors", "broken", wait=False, **MODULES)
    assert process.wait() == 2
    (line,) = eventually(lambda: process.lines)
    assert line.startswith("flyte-backend-serve: connector module 'broken' cannot be imported")


def test_without_flytekit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flytekit", None)
    with pytest.raises(PluginError, match=r"needs flytekit: pip install 'flyte-backend\[flytekit\]'"):
        register_connectors("flytekit")


def test_flytekit_is_imported_when_asked_for() -> None:
    look = "import sys, flyte_backend.connectors, flyte_backend._serve; print('flytekit' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout == "False\n"
