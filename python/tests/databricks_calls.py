"""Calls of the Databricks plugin, and the tasks, for its tests."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from flyte_backend import (
    BackendError,
    BackendPluginRegistry,
    JobRef,
    JobStatus,
    Secrets,
    TaskInfo,
)

from .conftest import PYTHON
from .databricks_server import Databricks as Server
from .databricks_server import environment, serve

with BackendPluginRegistry.isolated():  # what the module registers is for flyte-backend-serve
    from flyte_backend.plugins.databricks import Databricks as Databricks
    from flyte_backend.plugins.databricks import Run as Run
    from flyte_backend.plugins.databricks import Settings as Settings
    from flyte_backend.plugins.databricks._settings import host_of as host_of
    from flyte_backend.plugins.databricks._states import status_of as status_of

T = TypeVar("T")
METADATA = {
    "taskExecutionId": {
        "nodeExecutionId": {"nodeId": "n0", "executionId": {"project": "p", "domain": "d", "name": "exec1"}},
        "retryAttempt": 1,
    },
    "environmentVariables": {"FLYTE_K8S_ARRAY_INDEX": "3"},
}


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[Server, Path]]:
    """A server whose runs find the tests' modules, and the file of its authority."""
    with serve(folder, env={"PYTHONPATH": str(PYTHON)}) as (server, ca):
        yield server, ca


@contextlib.contextmanager
def configured(server: Server, ca: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The environment says that there is this server, and nothing else of Databricks. In the end the server is empty."""
    for name in [name for name in os.environ if "DATABRICKS" in name]:
        monkeypatch.delenv(name)
    for name, value in environment(server, ca).items():
        monkeypatch.setenv(name, value)
    yield server
    server.forget()


@functools.cache
def registered() -> dict[str, Any]:
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
