"""Tasks of workflows that flytekit runs locally go through plugins in this process."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flyte_backend.local as local
import fsspec
import pytest
from flyte_backend import (
    BackendPluginBase,
    BackendPluginRegistry,
    Conflict,
    DataLoss,
    JobFailed,
    JobStatus,
    Literals,
    NotFound,
    Overloaded,
    Retry,
    SyncPlugin,
    SystemError_,
    TaskInfo,
    Unauthenticated,
    UserError,
    aborted,
    failed,
    running,
    succeeded,
)
from flyte_backend._errors import ConfigurationError
from flyte_backend.testing import run, serve
from flytekit.core.context_manager import FlyteContextManager
from flytekit.core.data_persistence import FileAccessProvider
from flytekit.core.local_cache import LocalTaskCache
from flytekit.exceptions.system import FlyteSystemException
from flytekit.exceptions.user import FlyteUserRuntimeException
from flytekit.extras.sqlite3.task import SQLite3Config, SQLite3Task
from pandas import DataFrame

from .conftest import eventually
from .workflows import flows

Poll = Callable[[TaskInfo, int], JobStatus]


class Recorder(BackendPluginBase):
    """Keeps what it gets, and says of a job what the test wants it to: ``tells`` gets the task and how often it was polled."""

    def __init__(self, task_type: str, tells: Poll) -> None:
        super().__init__(task_type=task_type)
        self.tells = tells
        self.tasks: list[TaskInfo] = []
        self.polls: list[int] = []
        self.deleted: list[int] = []
        self.refuse: list[Exception] = []

    def create(self, task: TaskInfo) -> int:
        if self.refuse:
            raise self.refuse.pop(0)
        self.tasks.append(task)
        self.polls.append(0)
        return len(self.tasks) - 1

    def poll(self, job_id: int) -> JobStatus:
        self.polls[job_id] += 1
        return self.tells(self.tasks[job_id], self.polls[job_id])

    def delete(self, job_id: int) -> None:
        self.deleted.append(job_id)


def squares(task: TaskInfo, polls: int) -> JobStatus:
    return running("on it") if polls == 1 else succeeded({"o0": task.inputs["x"] ** 2})


Using = Callable[..., Recorder]


@pytest.fixture
def using() -> Iterator[Using]:
    """Has a recorder take a task type, for one test."""
    uses: list[local.Use] = []

    def start(task_type: str, tells: Poll = squares, **more: Any) -> Recorder:
        plugin = Recorder(task_type, tells)
        uses.append(local.use(plugin, **more))
        return plugin

    yield start
    for use in uses:
        use.close()


def raised(kind: type[BaseException], call: Callable[[], Any]) -> Any:
    with pytest.raises(kind) as info:
        call()
    return info.value


# ---- which tasks


def test_a_workflow_with_tasks_of_its_own_types(using: Using, capsys: pytest.CaptureFixture[str]) -> None:
    """Branches, nested and dynamic workflows, async and eager ones: each square is a job, all else runs here."""
    plugin = using("square")
    assert flows.everything(x=2) == (17, 4, 17)
    assert [task.inputs["x"] for task in plugin.tasks] == [2, 4, 2, 4]
    assert plugin.deleted == []
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["square: QUEUED", "square: RUNNING: on it", "square: SUCCEEDED"]
    assert asyncio.run(flows.eagerly(x=3)) == 82


def test_items_of_a_map_task_are_jobs(using: Using) -> None:
    plugin = using("mapped", lambda task, polls: succeeded({"o0": task.inputs["x"] ** 2 + task.inputs["more"]}))
    assert flows.maps(xs=[1, 2, 3]) == [11, 14, 19]
    assert [task.inputs for task in plugin.tasks] == [{"x": x, "more": 10} for x in (1, 2, 3)]
    for i, task in enumerate(plugin.tasks):
        environment = task.metadata["environmentVariables"]
        assert environment[environment["BATCH_JOB_ARRAY_INDEX_VAR_NAME"]] == str(i)
        assert task.template["container"]["args"][0] == "pyflyte-map-execute"
        assert task.template["taskTypeVersion"] == 1


def test_items_of_a_map_task_that_may_fail(using: Using) -> None:
    def tells(task: TaskInfo, polls: int) -> JobStatus:
        return failed("odd") if task.inputs["x"] % 2 else succeeded({"o0": task.inputs["x"]})

    plugin = using("mapped", tells)
    assert flows.maps_mostly(xs=[1, 2, 4]) == [None, 2, 4]
    assert "odd" in str(raised(FlyteUserRuntimeException, lambda: flows.maps_mostly(xs=[1, 3, 4])))
    assert len(plugin.tasks) == 5  # the last one was not begun


def test_types_without_a_plugin_run_as_ever(using: Using, tmp_path: Path) -> None:
    plugin = using("square")
    query = SQLite3Task(
        name="q",
        query_template="select 1 as a",
        task_config=SQLite3Config(uri=flows.database(tmp_path), compressed=False),
    )
    assert query().open(DataFrame).all().to_dict("list") == {"a": [1]}
    assert flows.plus(x=1) == 2
    assert plugin.tasks == []


def test_tasks_that_flytekit_has_a_class_for(using: Using) -> None:
    """One that would run here by itself, and one that looks for one of flytekit's connectors."""
    table = {"structuredDataset": {"uri": "/tmp/t.parquet", "metadata": {"structuredDatasetType": {"format": "parquet"}}}}

    def tells(task: TaskInfo, polls: int) -> JobStatus:
        return succeeded(Literals(results={"scalar": table}, undeclared={"scalar": {"primitive": {"integer": "1"}}}))

    lite, big = using("sqlite", tells), using("bigquery_query_job_task", tells)
    assert flows.lite(limit=3)._literal_sd.uri == "/tmp/t.parquet"
    assert lite.tasks[0].custom["query_template"] == "select 1 limit {{ .inputs.limit }}"
    assert flows.big(day=datetime.datetime(2026, 1, 1))._literal_sd.uri == "/tmp/t.parquet"
    (task,) = big.tasks
    assert task.custom["ProjectID"] == "p" and task.template["sql"]["statement"].startswith("select")
    assert task.inputs["day"].year == 2026


def test_a_task_whose_config_chooses_the_type(using: Using) -> None:
    """It has a container, whose arguments are rendered, and writes what it gives."""

    def tells(task: TaskInfo, polls: int) -> JobStatus:
        args = task.template["container"]["args"]
        inputs = Path(args[args.index("--inputs") + 1])
        assert inputs.parent == Path(task.output_prefix) and "{{" not in " ".join(args)
        if task.inputs["x"] == 1:
            outputs = {"literals": {"o0": task.literals["x"]}}
            Path(task.output_prefix, "outputs.pb").write_bytes(flows.as_bytes("LiteralMap", outputs))
        if task.inputs["x"] == 2:
            error = {"code": "USER:Bad", "message": "bad luck", "kind": "NON_RECOVERABLE", "origin": "USER"}
            Path(task.output_prefix, "error.pb").write_bytes(flows.as_bytes("ErrorDocument", {"error": error}))
        return succeeded()

    using("mapped", tells)
    assert flows.chosen(x=1) == 1
    assert raised(FlyteUserRuntimeException, lambda: flows.chosen(x=2)).error_code == "USER:Bad"
    assert "the job gave no outputs, and there is no /" in str(raised(FlyteSystemException, lambda: flows.chosen(x=3)))


def test_files_may_be_remote(using: Using, tmp_path: Path) -> None:
    """As with pyflyte run --raw-output-data-prefix: then the output prefix is there."""

    def tells(task: TaskInfo, polls: int) -> JobStatus:
        assert task.output_prefix.startswith("memory://bucket/")
        with (
            fsspec.open(task.output_prefix + "/inputs.pb") as given,
            fsspec.open(task.output_prefix + "/outputs.pb", "wb") as file,
        ):
            file.write(flows.renamed(given.read(), x="o0"))
        return succeeded()

    using("mapped", tells)
    context = FlyteContextManager.current_context()
    files = FileAccessProvider(str(tmp_path), "memory://bucket")
    with FlyteContextManager.with_context(context.with_file_access(files)):
        assert flows.chosen(x=5) == 5


# ---- what goes there and comes back


def test_values_are_flytekits_both_ways(using: Using, tmp_path: Path) -> None:
    file = tmp_path / "f.txt"
    file.write_text("text")
    plugin = using("echo", lambda task, polls: succeeded(Literals({"o" + name[1:]: v for name, v in task.literals.items()})))
    when = datetime.datetime(2026, 2, 3, tzinfo=datetime.timezone.utc)
    frame = DataFrame({"a": [1, 2]})
    point = flows.Point(1, ["t"])
    given = flows.echo(i0=point, i1=str(file), i2=frame, i3=[1, 2], i4={"a": 1.5}, i5=when, i6=None)
    assert given.o0 == point and Path(given.o1).read_text() == "text"
    assert given.o2.equals(frame)
    assert given[3:] == ([1, 2], {"a": 1.5}, when, None)
    (task,) = plugin.tasks
    assert task.inputs["i0"] == {"x": 1, "tags": ["t"]}
    assert Path(task.inputs["i1"].uri).read_text() == "text"


def test_what_the_service_is_told(using: Using) -> None:
    plugin = using("square")
    flows.square(x=2)
    flows.square(x=3)
    one, other = plugin.tasks
    assert one.template["id"] | {"resourceType": "TASK"} == {
        "resourceType": "TASK",
        "project": "local",
        "domain": "local",
        "name": "square",
        "version": "local",
    }
    assert one.template["interface"]["inputs"]["variables"]["x"]["type"] == {"simple": "INTEGER"}
    assert one.template["custom"] == {"way": "quick"}
    assert Path(one.output_prefix).is_dir() and one.output_prefix != other.output_prefix
    assert len(one.idempotency_key) == 64 and one.idempotency_key != other.idempotency_key
    ids = [task.metadata["taskExecutionId"] for task in plugin.tasks]
    assert ids[0]["nodeExecutionId"]["executionId"] == ids[1]["nodeExecutionId"]["executionId"]
    assert ids[0]["nodeExecutionId"]["nodeId"] != ids[1]["nodeExecutionId"]["nodeId"]
    assert one.metadata["namespace"] == "local-local" and one.metadata["maxAttempts"] == 1


def test_an_image_is_named_and_not_built(using: Using) -> None:
    plugin = using("mapped", lambda task, polls: succeeded({"o0": 1}))
    assert run(plugin, {"x": 1}, template=flows.with_image) == {"o0": 1}  # flytekit builds outside of an execution only
    assert flows.with_image(x=1) == 1
    images = {task.template["container"]["image"] for task in plugin.tasks}
    assert len(images) == 1 and images.pop().startswith("registry.example/images:")


def test_secrets_are_read_as_a_service_does(monkeypatch: pytest.MonkeyPatch) -> None:
    class Secretive(SyncPlugin):
        task_type = "square"

        def execute(self, task: TaskInfo) -> dict[str, Any]:
            return {"o0": int(task.secrets.get("group", "key"))}

    monkeypatch.setenv("_FSEC_GROUP_KEY", "42")
    with local.use(Secretive()):
        assert flows.square(x=1) == 42


def test_a_cached_task_runs_once(using: Using) -> None:
    LocalTaskCache.clear()
    plugin = using("square")
    assert [flows.cached(x=5), flows.cached(x=5), flows.cached(x=6)] == [25, 25, 36]
    assert len(plugin.tasks) == 2
    LocalTaskCache.clear()


# ---- failures


def test_a_users_failure_is_final(using: Using) -> None:
    plugin = using("square", lambda task, polls: failed(UserError("x is odd", reason="Odd")))
    error = raised(FlyteUserRuntimeException, lambda: flows.patient(x=1))
    assert "Error encountered while executing 'patient':\n  x is odd (Odd)" in str(error)
    assert error.error_code == "Odd" and isinstance(error.value, JobFailed)
    assert len(plugin.tasks) == 1 and plugin.deleted == []


def test_other_failures_are_tried_as_often_as_the_task_says(using: Using, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = using("square", lambda task, polls: failed(SystemError_("the disk is full")))
    error = raised(FlyteSystemException, lambda: flows.patient(x=1))
    assert "the disk is full" in str(error)
    assert len({task.idempotency_key for task in plugin.tasks}) == len(plugin.tasks) == 3
    assert [task.metadata["taskExecutionId"].get("retryAttempt", 0) for task in plugin.tasks] == [0, 1, 2]
    assert "patient: attempt 2 of 3 failed: the disk is full" in capsys.readouterr().err
    raised(FlyteSystemException, lambda: flows.square(x=1))
    assert len(plugin.tasks) == 4


def test_a_later_attempt_may_succeed(using: Using) -> None:
    def tells(task: TaskInfo, polls: int) -> JobStatus:
        attempt = task.metadata["taskExecutionId"].get("retryAttempt", 0)
        return succeeded({"o0": 9}) if attempt == 2 else JobStatus(flows.RETRYABLE, "preempted")

    plugin = using("square", tells)
    assert flows.patient(x=3) == 9
    assert len(plugin.tasks) == 3


@pytest.mark.parametrize(
    ("refusal", "kind", "says"),
    [
        (UserError("no such column"), FlyteUserRuntimeException, "no such column (InvalidArgument)"),
        (SystemError_("broken"), FlyteSystemException, "broken (Internal)"),
        (Unauthenticated("who are you"), FlyteSystemException, "who are you (Unauthenticated)"),
        (ValueError("secret text"), FlyteSystemException, "the plugin failed in create with ValueError"),
    ],
)
def test_a_create_that_is_refused(using: Using, refusal: Exception, kind: type[Exception], says: str) -> None:
    plugin = using("square")
    plugin.refuse = [refusal]
    assert says in str(raised(kind, lambda: flows.square(x=1)))
    assert plugin.tasks == [] and plugin.deleted == []


def test_what_may_pass_is_waited_out(using: Using, capsys: pytest.CaptureFixture[str]) -> None:
    """With the pauses that are asked for, and one key for one attempt."""
    times: list[float] = []

    def tells(task: TaskInfo, polls: int) -> JobStatus:
        times.append(time.monotonic())
        if polls == 1:
            raise Retry("the warehouse sleeps", after=0.3)
        if polls == 2:
            raise SystemError_("hiccup")
        return running(poll_after=0.4) if polls == 3 else succeeded({"o0": 4})

    plugin = using("square", tells)
    plugin.refuse = [Overloaded("full", after=1), Conflict("again")]
    began = time.monotonic()
    assert flows.square(x=2) == 4
    assert len(plugin.tasks) == 1 and plugin.deleted == []
    assert times[0] - began >= 1 and times[1] - times[0] >= 0.3 and times[3] - times[2] >= 0.4
    shown = capsys.readouterr().err
    assert "square: WAITING: full" in shown and "square: RUNNING: it cannot be looked at: the warehouse sleeps" in shown


def test_patience_ends(using: Using) -> None:
    def tells(task: TaskInfo, polls: int) -> JobStatus:
        raise Retry("gone fishing")

    plugin = using("square", tells, patience=0.3)
    assert "could not be looked at for 0.3 s: gone fishing" in str(raised(FlyteSystemException, lambda: flows.square(x=2)))
    assert plugin.deleted == [0]
    plugin.refuse = [Retry("closed", after=5)]
    assert "no success in 0.3 s: closed" in str(raised(FlyteSystemException, lambda: flows.square(x=2)))


@pytest.mark.parametrize("error", [NotFound("lost it"), DataLoss("ate it")])
def test_a_job_that_is_lost(using: Using, error: Exception) -> None:
    def tells(task: TaskInfo, polls: int) -> JobStatus:
        raise error

    plugin = using("square", tells)
    assert str(error) in str(raised(FlyteSystemException, lambda: flows.patient(x=1)))
    assert plugin.deleted == [0, 1, 2]


def test_a_job_that_somebody_ended(using: Using) -> None:
    using("square", lambda task, polls: aborted("by an admin"))
    assert "the job was ended by somebody else: by an admin" in str(
        raised(FlyteUserRuntimeException, lambda: flows.patient(x=1))
    )


def test_outputs_that_are_not_declared_so(using: Using) -> None:
    using("square", lambda task, polls: succeeded({"other": 1}))
    assert "gave no output o0" in str(raised(FlyteSystemException, lambda: flows.square(x=1)))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """An interrupt is an exception, as Python has it. flytekit ends the process instead, see test_pyflyte.py."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def test_an_interrupt_deletes_the_job(using: Using, interruptible: None) -> None:
    def tells(task: TaskInfo, polls: int) -> JobStatus:
        if polls == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return running()

    plugin = using("square", tells)
    raised(KeyboardInterrupt, lambda: flows.patient(x=1))
    assert plugin.deleted == [0]


def test_an_interrupt_while_a_job_is_started(using: Using, interruptible: None) -> None:
    """The answer is waited for: it names the job."""

    class Slow(Recorder):
        def create(self, task: TaskInfo) -> int:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
            return super().create(task)

    plugin = Slow("square", squares)
    with local.use(plugin):
        raised(KeyboardInterrupt, lambda: flows.square(x=1))
    assert len(plugin.tasks) == 1 and plugin.deleted == [0]


def test_an_interrupt_ends_a_synchronous_call(interruptible: None) -> None:
    class Slow(SyncPlugin):
        task_type = "square"
        ended = False

        async def execute(self, task: TaskInfo) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            try:
                await asyncio.sleep(60)
            finally:
                self.ended = True

    plugin = Slow()
    with local.use(plugin):
        raised(KeyboardInterrupt, lambda: flows.square(x=1))
        eventually(lambda: plugin.ended, timeout=20)


# ---- where


def test_a_synchronous_plugin() -> None:
    class Now(SyncPlugin):
        def __init__(self) -> None:
            super().__init__(task_type="square")
            self.calls = 0

        def execute(self, inputs: dict[str, Any]) -> Any:
            self.calls += 1
            if self.calls == 1:
                raise Retry("not yet")
            return {"o0": inputs["x"] ** 2} if inputs["x"] < 10 else failed("too large")

    with local.use(Now()):
        assert flows.square(x=3) == 9
        assert "too large" in str(raised(FlyteUserRuntimeException, lambda: flows.square(x=10)))


def test_an_endpoint_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Recorder("square", squares)
    with serve(plugin) as service:
        monkeypatch.setenv("FLYTE_BACKEND_ENDPOINT", service.url)
        local.use(Recorder("nothing", squares)).close()  # as flytekit's import does when the variable is set
        assert flows.square(x=4) == 16
    assert flows.plus(x=4) == 5  # the service is gone, and what it takes is known
    assert len(plugin.tasks) == 1


def test_an_endpoint_that_is_not_there() -> None:
    with local.use(endpoint="http://127.0.0.1:9"):
        error = raised(ConfigurationError, lambda: flows.plus(x=1))
    assert "the service at http://127.0.0.1:9 does not say which task types it serves: the service cannot be reached" in str(
        error
    )
    assert flows.plus(x=1) == 2
    raised(ConfigurationError, lambda: local.use(endpoint="127.0.0.1:8080"))
    raised(ConfigurationError, lambda: local.use())
    raised(ConfigurationError, lambda: local.use("module", endpoint="http://127.0.0.1:9"))


def test_the_last_one_goes_first(using: Using) -> None:
    first, last = using("square"), using("square", lambda task, polls: succeeded({"o0": -1}))
    assert flows.square(x=2) == -1
    assert first.tasks == [] and len(last.tasks) == 1


def test_a_module_is_loaded_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flyte_backend_registry: type[BackendPluginRegistry]
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    with local.use("not_there_yet"):
        assert "not_there_yet" in str(raised(Exception, lambda: flows.square(x=2)))
        (tmp_path / "not_there_yet.py").write_text(
            "from flyte_backend import *\n"
            "class Now(SyncPlugin):\n"
            "    def execute(self, inputs): return {'o0': 7}\n"
            "BackendPluginRegistry.register(Now('square'))\n"
        )
        assert flows.square(x=2) == 7


# ---- templates in tests


def test_run_takes_a_task_of_flytekits() -> None:
    plugin = Recorder("square", squares)
    template = flows.square_template()
    for given in (flows.square, template, template.to_flyte_idl(), flows.as_json(template)):
        assert run(plugin, {"x": 3}, template=given) == {"o0": 9}
    assert {task.custom["way"] for task in plugin.tasks} == {"quick"}
    with pytest.raises(TypeError, match="the template is a int"):
        run(plugin, {"x": 3}, template=3)
