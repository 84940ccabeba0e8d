"""Between gRPC's messages and the forms that the rest of the package works with: calls and the JSON of the contract."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
from flyteidl.admin import agent_pb2
from flyteidl.core import execution_pb2
from google.protobuf import duration_pb2, json_format
from google.protobuf.message import Message

from ._binding import Call, Wire
from ._errors import BackendError, SystemError_, UserError
from ._plugin import TaskMessages
from ._proto.flytebackend.v1 import backend_pb2

Context = grpc.aio.ServicerContext[Any, Any]

KEY = "flyte-backend-idempotency-key"
VERSION = "flyte-backend-plugin-version"


_PHASES = dict(execution_pb2.TaskExecution.Phase.items())

# For readers from before phases.
_LEGACY = {
    "QUEUED": agent_pb2.PENDING,
    "WAITING_FOR_RESOURCES": agent_pb2.PENDING,
    "INITIALIZING": agent_pb2.PENDING,
    "RUNNING": agent_pb2.RUNNING,
    "SUCCEEDED": agent_pb2.SUCCEEDED,
    "FAILED": agent_pb2.PERMANENT_FAILURE,
    "ABORTED": agent_pb2.PERMANENT_FAILURE,
}


def json_of(message: Message) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json_format.MessageToDict(message)
    except (ValueError, TypeError, json_format.Error) as e:
        raise UserError(f"the request cannot be read: {str(e)[:500]}") from None
    return found


def metadata_of(context: Context, key: str) -> str:
    for name, value in context.invocation_metadata() or ():
        if name == key:
            return value if isinstance(value, str) else value.decode("latin-1")
    return ""


def deadline_of(context: Context) -> float | None:
    left = context.time_remaining()
    # A deadline of centuries is none.
    return max(left, 0.001) if left is not None and left < 1e8 else None


def task_call(template: Message, context: Context, request: Any, inputs: Message) -> Call:
    found = json_of(template)
    return Call(
        found.get("type", ""),
        metadata_of(context, VERSION),
        found.get("taskTypeVersion", 0),
        key=metadata_of(context, KEY),
        template=found,
        literals=json_of(inputs).get("literals", {}),
        metadata=json_of(request.task_execution_metadata),
        output_prefix=request.output_prefix,
        transport="grpc",
        messages=TaskMessages(template, inputs, request.task_execution_metadata),
    )


def job_call(request: Any, context: Context) -> Call:
    category = request.task_category
    return Call(
        category.name or request.task_type,
        metadata_of(context, VERSION),
        category.version,
        output_prefix=getattr(request, "output_prefix", ""),
        job_id=request.resource_meta,
        transport="grpc",
    )


def ref_call(ref: Any) -> Call:
    return Call(
        ref.task_category.name,
        ref.plugin_version,
        ref.task_category.version,
        output_prefix=ref.output_prefix,
        job_id=ref.resource_meta,
        transport="grpc",
    )


def resource_of(wire: Wire) -> Any:
    """A job's state in flyteidl's words."""
    resource = agent_pb2.Resource(
        phase=_PHASES[wire["job_state"]],
        state=_LEGACY.get(wire["job_state"], agent_pb2.RETRYABLE_FAILURE),
        message=wire["message"],
    )
    try:
        if "outputs" in wire:
            json_format.ParseDict(wire["outputs"], resource.outputs)
        if "custom_info" in wire:
            json_format.ParseDict(wire["custom_info"], resource.custom_info)
    except (json_format.Error, ValueError, TypeError) as e:
        raise SystemError_("the plugin's outputs or custom_info cannot be written as a message") from e
    for link in wire.get("log_links", ()):
        resource.log_links.add(name=link["name"], uri=link["uri"])
    if wire["error_code"] or "recoverable" in wire:
        resource.agent_error.code = wire["error_code"]
        resource.agent_error.kind = (
            agent_pb2.AgentError.RECOVERABLE if wire.get("recoverable", True) else agent_pb2.AgentError.NON_RECOVERABLE
        )
        resource.agent_error.origin = execution_pb2.ExecutionError.ErrorKind.Value(wire.get("error_kind", "UNKNOWN"))
    return resource


def pause_of(seconds: float) -> Any:
    pause = duration_pb2.Duration()
    pause.FromTimedelta(timedelta(seconds=min(seconds, 1e9)))
    return pause


def message_of(e: BackendError) -> str:
    text = str(e).encode("utf-8", "replace").decode()
    return text if len(text) <= 4096 else text[:4096] + "…"


def result_of(found: Wire | BackendError) -> Any:
    if isinstance(found, BackendError):
        error = backend_pb2.Error(code=found.code.number, message=message_of(found))
        if found.after:
            error.retry_after.CopyFrom(pause_of(found.after))
        return backend_pb2.TaskResult(error=error)
    try:
        task = backend_pb2.Task(resource=resource_of(found))
    except BackendError as e:
        return result_of(e)
    if pause := found.get("poll_after_seconds"):
        task.poll_after.CopyFrom(pause_of(pause))
    return backend_pb2.TaskResult(task=task)
