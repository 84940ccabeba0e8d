"""Connectors of flytekit's kind. The square ones behave well: they keep their jobs in a folder that replicas share (JOBS_FOLDER),
and say when there is no such job. ``x`` is squared; ``seconds`` is how long it takes, ``fail`` why it fails. The others show what
they are given, or give what the task's custom asks for."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flytekit
from flyteidl.admin import agent_pb2
from flyteidl.core import metrics_pb2
from flyteidl.core.execution_pb2 import TaskExecution, TaskLog
from flytekit.core.context_manager import FlyteContextManager
from flytekit.exceptions.user import FlyteEntityNotExistException, FlyteUserException
from flytekit.extend.backend.base_connector import (
    AsyncConnectorBase,
    ConnectorRegistry,
    Resource,
    ResourceMeta,
    SyncConnectorBase,
)
from flytekit.models.core.execution import TaskLog as TaskLogModel
from flytekit.models.literals import Literal, LiteralMap, Primitive, Scalar
from flytekit.models.task import TaskExecutionMetadata, TaskTemplate
from google.protobuf import json_format, struct_pb2

FOLDER = Path(os.environ.get("JOBS_FOLDER") or tempfile.mkdtemp(prefix="jobs"))
FOLDER.mkdir(parents=True, exist_ok=True)


def values_of(inputs: LiteralMap | None) -> dict[str, Any]:
    return {name: literal.scalar.primitive.value for name, literal in (inputs.literals if inputs else {}).items()}


@dataclass
class SquareJob(ResourceMeta):  # type: ignore[misc]  # flytekit has no types
    job: str


class Square(AsyncConnectorBase):  # type: ignore[misc]  # flytekit has no types
    """Plain methods, which block."""

    name = "Square Connector"

    def __init__(self, task_type_name: str = "connector_square") -> None:
        super().__init__(SquareJob, task_type_name=task_type_name)

    def _read(self, meta: SquareJob) -> dict[str, Any]:
        if not isinstance(meta.job, str) or not meta.job.isalnum() or not meta.job.isascii() or len(meta.job) > 64:
            raise FlyteEntityNotExistException("there is no such job")
        try:
            job: dict[str, Any] = json.loads((FOLDER / meta.job).read_text())
        except FileNotFoundError:
            raise FlyteEntityNotExistException("there is no such job") from None
        return job

    def create(self, task_template: TaskTemplate, inputs: LiteralMap, idempotency_key: str = "", **kwargs: Any) -> SquareJob:
        values = values_of(inputs)
        if not isinstance(values.get("x", 1), int):
            raise FlyteUserException("x is no integer")
        name = hashlib.sha256((idempotency_key or os.urandom(16).hex()).encode()).hexdigest()
        # The text of a message differs from process to process: maps have no order.
        request = task_template.to_flyte_idl().SerializeToString(deterministic=True)
        request += json.dumps(values, sort_keys=True, default=str).encode()
        job = {
            "x": values.get("x", 1),
            "until": time.time() + values.get("seconds", 0.2),
            "fail": values.get("fail", ""),
            "request": hashlib.sha256(request).hexdigest(),
        }
        with tempfile.NamedTemporaryFile("w", dir=FOLDER, prefix=".new", delete=False) as file:
            json.dump(job, file)
        try:
            os.link(file.name, FOLDER / name)
        except FileExistsError:
            if self._read(SquareJob(name))["request"] != job["request"]:
                from flyte_backend import AlreadyExists

                raise AlreadyExists("the key was used for another request") from None
        finally:
            os.unlink(file.name)
        return SquareJob(name)

    def get(self, resource_meta: SquareJob, **kwargs: Any) -> Resource:
        job = self._read(resource_meta)
        links = [TaskLog(name="Log", uri=f"https://logs.example/{resource_meta.job}")]
        if job.get("deleted"):
            return Resource(TaskExecution.ABORTED, "somebody ended it", links)
        if time.time() < job["until"]:
            return Resource(TaskExecution.RUNNING, "squaring", links, custom_info={"x": job["x"]})
        if job["fail"]:
            return Resource(TaskExecution.FAILED, job["fail"], links)
        return Resource(TaskExecution.SUCCEEDED, None, links, outputs={"o0": job["x"] ** 2})

    def delete(self, resource_meta: SquareJob, **kwargs: Any) -> None:
        job = self._read(resource_meta)
        if time.time() >= job["until"] or job.get("deleted"):
            return
        with tempfile.NamedTemporaryFile("w", dir=FOLDER, prefix=".new", delete=False) as file:
            json.dump({**job, "deleted": True}, file)
        os.replace(file.name, FOLDER / resource_meta.job)

    def get_logs(self, resource_meta: SquareJob, token: str = "", **kwargs: Any) -> Any:
        self._read(resource_meta)
        body = agent_pb2.GetTaskLogsResponseBody(results=["it ended\n"])
        if token:
            return agent_pb2.GetTaskLogsResponse(body=body)
        line = agent_pb2.LogLine(message="it began\n", originator=agent_pb2.SYSTEM)
        line.timestamp.FromJsonString("2026-02-03T04:05:06Z")
        return [
            agent_pb2.GetTaskLogsResponse(header=agent_pb2.GetTaskLogsResponseHeader(token="1")),
            agent_pb2.GetTaskLogsResponse(body=agent_pb2.GetTaskLogsResponseBody(structured_lines=[line])),
        ]

    def get_metrics(self, resource_meta: SquareJob, queries: list[str], **kwargs: Any) -> Any:
        self._read(resource_meta)
        data = json_format.ParseDict({"resultType": "matrix", "result": []}, struct_pb2.Struct())
        found = [metrics_pb2.ExecutionMetricResult(metric=name, data=data) for name in queries or ["cpu"]]
        return agent_pb2.GetTaskMetricsResponse(results=found)


class AsyncSquare(AsyncConnectorBase):  # type: ignore[misc]  # flytekit has no types
    """The same as coroutines, for tasks of version 2. Its log is a stream."""

    name = "Square Connector"

    def __init__(self) -> None:
        super().__init__(SquareJob, task_type_name="connector_versions", task_type_version=2)
        self.square = Square()

    async def create(self, **kwargs: Any) -> SquareJob:
        return self.square.create(**kwargs)

    async def get(self, resource_meta: SquareJob) -> Resource:
        found = self.square.get(resource_meta)
        found.message = f"version 2 {found.message or ''}"
        return found

    async def delete(self, resource_meta: SquareJob, **kwargs: Any) -> None:
        self.square.delete(resource_meta)

    async def get_logs(self, resource_meta: SquareJob, lines: int) -> AsyncIterator[Any]:
        for n in range(lines):
            yield agent_pb2.GetTaskLogsResponse(body=agent_pb2.GetTaskLogsResponseBody(results=[f"{n}\n"]))


class SquareNow(SyncConnectorBase):  # type: ignore[misc]  # flytekit has no types
    """In one call."""

    name = "Square Now Connector"

    def __init__(self) -> None:
        super().__init__("connector_square_now")

    def do(self, task_template: TaskTemplate, output_prefix: str, inputs: LiteralMap | None = None) -> Resource:
        return Resource(TaskExecution.SUCCEEDED, outputs={"o0": values_of(inputs).get("x", 1) ** 2})


# ---- what it is given


@dataclass
class Seen(ResourceMeta):  # type: ignore[misc]  # flytekit has no types
    """Its bytes are no JSON, and no text."""

    text: str

    def encode(self) -> bytes:
        return b"\xff" + self.text.encode()

    @classmethod
    def decode(cls, data: bytes) -> Seen:
        if data[:1] != b"\xff":
            raise ValueError("it is none")
        return cls(data[1:].decode())


class Mirror(AsyncConnectorBase):  # type: ignore[misc]  # flytekit has no types
    """Its job is what create was given, which get shows. It has no logs and no metrics."""

    def __init__(self) -> None:
        super().__init__(Seen, task_type_name="connector_mirror")

    async def create(
        self,
        task_template: TaskTemplate,
        output_prefix: str,
        inputs: LiteralMap | None,
        task_execution_metadata: TaskExecutionMetadata | None,
        **kwargs: Any,
    ) -> Seen:
        assert inputs is not None
        assert task_execution_metadata is not None
        (FOLDER / "mirror.pb").write_bytes(task_template.to_flyte_idl().SerializeToString(deterministic=True))
        (FOLDER / "mirror_inputs.pb").write_bytes(inputs.to_flyte_idl().SerializeToString(deterministic=True))
        (FOLDER / "mirror_metadata.pb").write_bytes(
            task_execution_metadata.to_flyte_idl().SerializeToString(deterministic=True)
        )
        try:
            secret = flytekit.current_context().secrets.get("vault", "key")
        except ValueError:
            secret = "none"
        shown = {
            "output_prefix": output_prefix,
            "more": sorted(kwargs),
            "secret_length": len(secret),
            "thread": threading.current_thread().name,
        }
        return Seen(json.dumps(shown))

    async def get(self, resource_meta: Seen, output_prefix: str) -> Resource:
        seen = {**json.loads(resource_meta.text), "polled_prefix": output_prefix}
        return Resource(TaskExecution.SUCCEEDED, custom_info=seen)

    async def delete(self, resource_meta: Seen) -> None:
        pass


# ---- what it gives


@dataclass
class Wanted(ResourceMeta):  # type: ignore[misc]  # flytekit has no types
    phase: str
    message: str | None = None
    outputs: str = ""
    error: str = ""
    thread: str = ""


class VendorError(Exception):
    """As vendors' clients have them."""

    def __init__(self, status: int) -> None:
        super().__init__(f'the vendor said {status}\nTraceback (most recent call last):\n  File "x.py", line 1')
        self.status_code = status


class JobNotFound(Exception):
    """As other clients have them."""


@dataclass
class Pair:
    a: int
    b: list[str] = field(default_factory=list)


def given(name: str) -> Any:
    """Outputs by name of the case."""
    five = Literal(scalar=Scalar(primitive=Primitive(integer=5)))
    return {
        "": None,
        "empty": {},
        "literal_map": LiteralMap({"o": five}),
        "literal": {"o": five},
        "values": {"i": 1, "f": 1.5, "s": "x", "l": [1, 2], "n": None, "d": {"a": [1]}},
        "dataclass": {"o": Pair(1, ["x"])},
        "table": {"o": flytekit.StructuredDataset(uri="bq://p:d.t")},
        "tables": {"o": [flytekit.StructuredDataset(uri="bq://p:d.t")]},
        "number": {"o": 2},
        "bad": {"o": threading.Lock()},
        "text": "no mapping",
    }[name]


def raised(name: str) -> Exception:
    if name.isdigit():
        return VendorError(int(name))
    errors: dict[str, Exception] = {
        "user": FlyteUserException("the statement is wrong"),
        "gone": JobNotFound("no such job"),
        "plain": ValueError("something is odd"),
        "refused": ConnectionRefusedError("nobody is there"),
        "file": FileNotFoundError("credentials.json"),
    }
    return errors[name]


class Giver(AsyncConnectorBase):  # type: ignore[misc]  # flytekit has no types
    """Gives what custom says: at which of its methods, and what."""

    name = "Giver"

    def __init__(self, task_type_name: str) -> None:
        super().__init__(Wanted, task_type_name=task_type_name)

    def create(self, task_template: TaskTemplate, **kwargs: Any) -> Wanted:
        custom = task_template.custom
        if custom.get("at") == "create":
            raise raised(custom["error"])
        with FlyteContextManager.with_context(FlyteContextManager.current_context().new_builder()):
            time.sleep(0.01)  # others do the same meanwhile
        thread = threading.current_thread().name
        return Wanted(
            custom.get("phase", "RUNNING"), custom.get("message"), custom.get("outputs", ""), custom.get("error", ""), thread
        )

    def get(self, resource_meta: Wanted, **kwargs: Any) -> Resource:
        if resource_meta.error:
            raise raised(resource_meta.error)
        links = [TaskLogModel(name="Console", uri="https://x.example/1", message_format=TaskLogModel.MessageFormat.UNKNOWN)]
        return Resource(
            TaskExecution.Phase.Value(resource_meta.phase),
            resource_meta.message,
            links,
            given(resource_meta.outputs),
            {"n": 1, "text": resource_meta.thread},
        )

    def delete(self, resource_meta: Wanted, **kwargs: Any) -> None:
        if resource_meta.error:
            raise raised(resource_meta.error)


class GiverNow(SyncConnectorBase):  # type: ignore[misc]  # flytekit has no types
    def __init__(self) -> None:
        super().__init__("connector_giver_now")

    async def do(self, task_template: TaskTemplate, output_prefix: str, inputs: LiteralMap | None, **kwargs: Any) -> Resource:
        custom = task_template.custom
        if custom.get("error"):
            raise raised(custom["error"])
        return Resource(
            TaskExecution.Phase.Value(custom["phase"]), custom.get("message"), outputs=given(custom.get("outputs", ""))
        )


ConnectorRegistry.register(Square())
ConnectorRegistry.register(Square("connector_versions"))
ConnectorRegistry.register(AsyncSquare())
ConnectorRegistry.register(SquareNow())
ConnectorRegistry.register(Mirror())
ConnectorRegistry.register(Giver("connector_giver"))
ConnectorRegistry.register(Giver("connector_giver_too"))
ConnectorRegistry.register(GiverNow())
