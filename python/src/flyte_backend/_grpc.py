"""gRPC: flyteidl's agent services, and the extension, on top of the same plugins. It needs the extra ``grpc``.

Messages become the JSON form that the rest of the package works with, and back: REST and gRPC go through the same code.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta, timezone
from typing import Any, NoReturn

import grpc
import grpc.aio
from flyteidl.admin import agent_pb2
from flyteidl.core import execution_pb2, literals_pb2, metrics_pb2
from flyteidl.service import agent_pb2 as agent_service_pb2
from google.protobuf import any_pb2, duration_pb2, json_format, message_factory, struct_pb2
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from ._binding import Call, Wire
from ._errors import BackendError, NotFound, Overloaded, Retry, SystemError_, Unimplemented, UserError
from ._plugin import JobState, TaskMessages
from ._proto.flytebackend.v1 import backend_pb2
from ._protojson import Invalid, timestamp
from ._service import MAX_JOBS_IN_POLL, Service

log = logging.getLogger("flyte_backend")

Context = grpc.aio.ServicerContext[Any, Any]

KEY = "flyte-backend-idempotency-key"
VERSION = "flyte-backend-plugin-version"

# The least time between two looks at a job that is followed, however often its plugin says that it changed.
WATCH_PAUSE = 0.05

_STATUS = {code.value[0]: code for code in grpc.StatusCode}

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


# ---- reading and writing


def _json(message: Message) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json_format.MessageToDict(message)
    except (ValueError, TypeError, json_format.Error) as e:
        raise UserError(f"the request cannot be read: {str(e)[:500]}") from None
    return found


def _metadata(context: Context, key: str) -> str:
    for name, value in context.invocation_metadata() or ():
        if name == key:
            return value if isinstance(value, str) else value.decode("latin-1")
    return ""


def _deadline(context: Context) -> float | None:
    left = context.time_remaining()
    # A deadline of centuries is none.
    return max(left, 0.001) if left is not None and left < 1e8 else None


def _task(template: Message, context: Context, request: Any, inputs: Message) -> Call:
    found = _json(template)
    return Call(
        found.get("type", ""),
        _metadata(context, VERSION),
        found.get("taskTypeVersion", 0),
        key=_metadata(context, KEY),
        template=found,
        literals=_json(inputs).get("literals", {}),
        metadata=_json(request.task_execution_metadata),
        output_prefix=request.output_prefix,
        transport="grpc",
        messages=TaskMessages(template, inputs, request.task_execution_metadata),
    )


def _job(request: Any, context: Context) -> Call:
    category = request.task_category
    return Call(
        category.name or request.task_type,
        _metadata(context, VERSION),
        category.version,
        output_prefix=getattr(request, "output_prefix", ""),
        job_id=request.resource_meta,
        transport="grpc",
    )


def _ref(ref: Any) -> Call:
    return Call(
        ref.task_category.name,
        ref.plugin_version,
        ref.task_category.version,
        output_prefix=ref.output_prefix,
        job_id=ref.resource_meta,
        transport="grpc",
    )


def _resource(wire: Wire) -> Any:
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


def _pause(seconds: float) -> Any:
    pause = duration_pb2.Duration()
    pause.FromTimedelta(timedelta(seconds=min(seconds, 1e9)))
    return pause


def _message(e: BackendError) -> str:
    text = str(e).encode("utf-8", "replace").decode()
    return text if len(text) <= 4096 else text[:4096] + "…"


def _result(found: Wire | BackendError) -> Any:
    if isinstance(found, BackendError):
        error = backend_pb2.Error(code=found.code.number, message=_message(found))
        if found.after:
            error.retry_after.CopyFrom(_pause(found.after))
        return backend_pb2.TaskResult(error=error)
    try:
        task = backend_pb2.Task(resource=_resource(found))
    except BackendError as e:
        return _result(e)
    if pause := found.get("poll_after_seconds"):
        task.poll_after.CopyFrom(_pause(pause))
    return backend_pb2.TaskResult(task=task)


async def _abort(context: Context, e: BackendError) -> NoReturn:
    trailing: tuple[tuple[str, str | bytes], ...] = ()
    message = _message(e)
    if e.after:
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.RetryInfo(retry_delay=_pause(e.after)))
        status = status_pb2.Status(code=e.code.number, message=message, details=[detail])
        trailing = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(_STATUS[e.code.number], message, trailing)
    raise AssertionError("abort raises")


# ---- flyteidl's services. Their methods raise; _handlers answers.


class _Async:
    def __init__(self, service: Service) -> None:
        self.service = service

    async def CreateTask(self, request: Any, context: Context) -> Any:
        call = _task(request.template, context, request, request.inputs)
        job_id = await self.service.create(call, _deadline(context))
        return agent_pb2.CreateTaskResponse(resource_meta=job_id)

    async def GetTask(self, request: Any, context: Context) -> Any:
        wire, _ = await self.service.poll(_job(request, context), _deadline(context))
        return agent_pb2.GetTaskResponse(resource=_resource(wire))

    async def DeleteTask(self, request: Any, context: Context) -> Any:
        await self.service.delete(_job(request, context), _deadline(context))
        return agent_pb2.DeleteTaskResponse()

    async def GetTaskLogs(self, request: Any, context: Context) -> AsyncIterator[Any]:
        page = await self.service.logs(_job(request, context), request.lines, request.token, _deadline(context))
        header = agent_pb2.GetTaskLogsResponseHeader(token=page["next"])
        yield agent_pb2.GetTaskLogsResponse(header=header)
        body = agent_pb2.GetTaskLogsResponseBody()
        for line in page["lines"]:
            body.results.append(line["message"])
            # Older releases of flyteidl do not have them.
            if hasattr(body, "structured_lines"):
                one = body.structured_lines.add(message=line["message"])
                one.originator = agent_pb2.SYSTEM if line["system"] else agent_pb2.USER
                if "time" in line:
                    one.timestamp.FromJsonString(line["time"])
        yield agent_pb2.GetTaskLogsResponse(body=body)

    async def GetTaskMetrics(self, request: Any, context: Context) -> Any:
        start, end = (_when(request, name) for name in ("start_time", "end_time"))
        step = request.step.ToTimedelta() if request.HasField("step") else None
        call, queries = _job(request, context), list(request.queries)
        found = await self.service.job_metrics(call, queries, start, end, step or None, _deadline(context))
        reply = agent_pb2.GetTaskMetricsResponse()
        for metric in found:
            data = json_format.ParseDict(metric.get("data", {}), struct_pb2.Struct())
            reply.results.append(metrics_pb2.ExecutionMetricResult(metric=metric["name"], data=data))
        return reply


def _when(request: Any, name: str) -> datetime | None:
    if not request.HasField(name):
        return None
    try:
        return timestamp(getattr(request, name).ToJsonString()).astimezone(timezone.utc)
    except (ValueError, OverflowError, Invalid):
        raise UserError(f"{name} is no valid time") from None


class _Sync:
    def __init__(self, service: Service) -> None:
        self.service = service

    async def ExecuteTaskSync(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        header, inputs = await _read_execute(requests)
        call = _task(header.template, context, header, inputs)
        call.max_output_bytes = header.max_dataset_size_bytes
        wire, _ = await self.service.execute(call, _deadline(context))
        yield agent_pb2.ExecuteTaskSyncResponse(header=agent_pb2.ExecuteTaskSyncResponseHeader(resource=_resource(wire)))


async def _read_execute(requests: AsyncIterator[Any]) -> tuple[Any, Any]:
    header = None
    inputs = literals_pb2.LiteralMap()
    async for part in requests:
        which = part.WhichOneof("part")
        if which == "header" and header is not None:
            raise UserError("the call holds two headers")
        if which == "header":
            header = part.header
        elif which == "inputs":
            for name, literal in part.inputs.literals.items():
                if name in inputs.literals and inputs.literals[name] != literal:
                    raise UserError(f"input {name[:100]!r} came twice with different values")
                inputs.literals[name].CopyFrom(literal)
    if header is None:
        raise UserError("the call ended before its header came")
    return header, inputs


class _Metadata:
    def __init__(self, service: Service) -> None:
        self.agents = [agent for is_sync in (True, False) for agent in _agents(service, is_sync)]

    async def ListAgents(self, request: Any, context: Context) -> Any:
        return agent_pb2.ListAgentsResponse(agents=self.agents)

    async def GetAgent(self, request: Any, context: Context) -> Any:
        for agent in self.agents:
            if agent.name == request.name:
                return agent_pb2.GetAgentResponse(agent=agent)
        raise NotFound(f"this service has no plugin called {request.name[:200]!r}")


def _agents(service: Service, is_sync: bool) -> list[Any]:
    """The plugins in flyteidl's words. Those of one name and version are one agent. Those that can do both are listed twice,
    the asynchronous one last, which the connector plugin that ships with Flyte then takes."""
    out: dict[str, Any] = {}
    for plugin in service.plugins.bound:
        if not (plugin.is_sync if is_sync else plugin.is_async):
            continue
        name = plugin.name if plugin.version == "v1" and "@" not in plugin.name else f"{plugin.name}@{plugin.version}"
        agent = out.setdefault(name, agent_pb2.Agent(name=name, is_sync=is_sync))
        if plugin.task_type not in agent.supported_task_types:
            agent.supported_task_types.append(plugin.task_type)
        for version in plugin.task_type_versions or (0,):
            agent.supported_task_categories.add(name=plugin.task_type, version=version)
    return list(out.values())


# ---- the extension


class _Backend:
    """flytebackend.v1.BackendService."""

    def __init__(self, service: Service, ending: asyncio.Event) -> None:
        self.service = service
        self.ending = ending

    async def GetTasks(self, request: Any, context: Context) -> Any:
        n = len(request.tasks)
        if not 0 < n <= MAX_JOBS_IN_POLL:
            raise UserError(f"the call names {n} jobs; 1 to {MAX_JOBS_IN_POLL} are due")
        found = await self.service.poll_many([_ref(ref) for ref in request.tasks], _deadline(context))
        return backend_pb2.GetTasksResponse(results=[_result(one) for one in found])

    async def WatchTasks(self, requests: AsyncIterator[Any], context: Context) -> None:
        watches = _Watches(self.service, context)
        reading = asyncio.ensure_future(watches.read(requests))
        ending = asyncio.ensure_future(self.ending.wait())
        try:
            # When the caller follows no others, it listens on.
            await asyncio.wait({ending, reading}, return_when=asyncio.FIRST_COMPLETED)
            if not ending.done() and reading.exception() is None:
                await ending
            if not ending.done():
                reading.result()
        finally:
            for task in (reading, ending, *watches.tasks.values()):
                task.cancel()
            self.service.metrics.add("watched_jobs", -len(watches.tasks))
        raise Retry("the service is ending: follow the jobs anew, at another replica")


class _Watches:
    """The jobs that one stream follows."""

    def __init__(self, service: Service, context: Context) -> None:
        self.service = service
        self.context = context
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self._sending = asyncio.Lock()

    async def read(self, requests: AsyncIterator[Any]) -> None:
        async for request in requests:
            for watch_id in request.unfollow:
                self._unfollow(watch_id)
            for watched in request.follow:
                await self._follow(watched.watch_id, _ref(watched.task))

    def _unfollow(self, watch_id: int) -> None:
        if (task := self.tasks.pop(watch_id, None)) is not None:
            task.cancel()
            self.service.metrics.add("watched_jobs", -1)

    async def _follow(self, watch_id: int, call: Call) -> None:
        self._unfollow(watch_id)
        if len(self.tasks) >= self.service.options.max_watches:
            limit = self.service.options.max_watches
            await self._send(watch_id, Overloaded(f"the stream follows {limit} jobs already, which is the limit"))
            return
        self.service.metrics.add("watched_jobs")
        self.tasks[watch_id] = asyncio.create_task(self._watch(watch_id, call))

    async def _send(self, watch_id: int, found: Wire | BackendError) -> None:
        async with self._sending:  # a stream takes one message at a time
            await self.context.write(backend_pb2.WatchTasksResponse(watch_id=watch_id, result=_result(found)))

    async def _watch(self, watch_id: int, call: Call) -> None:
        try:
            last = await self._look(watch_id, call)
        except BackendError as e:
            last = e
        except Exception:
            log.exception("the service failed")
            last = SystemError_("the service failed; its log has the details")
        await self._send(watch_id, last)
        if self.tasks.pop(watch_id, None) is not None:
            self.service.metrics.add("watched_jobs", -1)

    async def _look(self, watch_id: int, call: Call) -> Wire | BackendError:
        """Tells of the job until the last news, which it gives."""
        plugin = self.service.find("Watch", call, lambda p: p.is_async, about_job=True)
        if not plugin.has("watch"):
            raise Unimplemented(f"the plugin for task type {call.task_type!r} cannot watch")
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            loop.call_soon_threadsafe(changed.set)

        watching = asyncio.ensure_future(plugin.watch(call, tell))
        try:
            over: BackendError | None = None
            while True:
                changed.clear()
                wire, _ = await self.service.poll(call)
                if JobState(wire["job_state"]).is_final:
                    return wire
                await self._send(watch_id, wire)
                if over is not None:
                    return over
                await asyncio.sleep(WATCH_PAUSE)
                news = asyncio.ensure_future(changed.wait())
                await asyncio.wait({news, watching}, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                if watching.done():  # one more look: it may have ended because the job did
                    failure = watching.exception()
                    over = plugin.as_error(failure, "watch") if failure else Retry("the plugin tells no more of this job")
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


class _Health:
    """grpc.health.v1. Unlike the one of grpc's own package, its streams end with the server."""

    def __init__(self, service: Service, ending: asyncio.Event) -> None:
        self.service = service
        self.ending = ending
        self._changed = asyncio.Event()
        service.on_readiness.append(self._tell)

    def _tell(self, _: bool) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _now(self, name: str) -> Any:
        if name:
            return None
        ready = self.service.readiness == "ready"
        return health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING

    async def Check(self, request: Any, context: Context) -> Any:
        now = self._now(request.service)
        if now is None:
            raise NotFound("this service has no other name than the empty one")
        return health_pb2.HealthCheckResponse(status=now)

    async def List(self, request: Any, context: Context) -> Any:
        return health_pb2.HealthListResponse(statuses={"": health_pb2.HealthCheckResponse(status=self._now(""))})

    async def Watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        while True:
            changed = self._changed
            now = self._now(request.service)
            unknown = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            yield health_pb2.HealthCheckResponse(status=unknown if now is None else now)
            waits = [asyncio.ensure_future(event.wait()) for event in (changed, self.ending)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            if self.ending.is_set():
                raise Retry("the service is ending")


# ---- the server


def _handlers(service: ServiceDescriptor, servicer: Any) -> grpc.GenericRpcHandler:
    """The methods of a service. What they raise becomes the code that the caller gets.

    They take bytes and read them here, since grpc would call a message that cannot be read the service's own failure; an
    interceptor could do the same, at a tenth of a poll's cost.
    """
    made = {}
    for method in service.methods:
        read = message_factory.GetMessageClass(method.input_type).FromString
        write = message_factory.GetMessageClass(method.output_type).SerializeToString
        do = getattr(servicer, method.name, None)
        if do is None:
            continue  # a later release has it; the caller gets UNIMPLEMENTED
        if method.client_streaming and not inspect.isasyncgenfunction(do):
            made[method.name] = grpc.stream_stream_rpc_method_handler(_writing(do), read, write)
        elif method.client_streaming:
            made[method.name] = grpc.stream_stream_rpc_method_handler(_streaming(do), read, write)
        elif method.server_streaming:
            made[method.name] = grpc.unary_stream_rpc_method_handler(_streaming(do, read), None, write)
        else:
            made[method.name] = grpc.unary_unary_rpc_method_handler(_unary(do, read), None, write)
    return grpc.method_handlers_generic_handler(service.full_name, made)


async def _fail(context: Context, e: Exception) -> NoReturn:
    if not isinstance(e, (BackendError, DecodeError)):
        log.error("the service failed", exc_info=e)
        e = SystemError_("the service failed; its log has the details")
    await _abort(context, e if isinstance(e, BackendError) else UserError("the message cannot be read"))


def _unary(do: Callable[[Any, Context], Awaitable[Any]], read: Callable[[bytes], Any]) -> Callable[[bytes, Context], Any]:
    async def answer(raw: bytes, context: Context) -> Any:
        try:
            return await do(read(raw), context)
        except Exception as e:
            await _fail(context, e)

    return answer


def _streaming(
    do: Callable[[Any, Context], AsyncIterator[Any]], read: Callable[[bytes], Any] | None = None
) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def answer(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for one in do(request if read is None else read(request), context):
                yield one
        except Exception as e:
            await _fail(context, e)

    return answer


def _writing(do: Callable[[Any, Context], Awaitable[None]]) -> Callable[[Any, Context], Awaitable[None]]:
    async def answer(requests: Any, context: Context) -> None:
        try:
            await do(requests, context)
        except Exception as e:
            await _fail(context, e)

    return answer


class GRPCServer:
    """The plugins over gRPC. ``credentials`` of None is plain text."""

    def __init__(
        self,
        service: Service,
        address: str,
        credentials: grpc.ServerCredentials | None,
        *,
        reuse_port: bool = False,
    ) -> None:
        limit = service.options.max_request_bytes
        self.ending = asyncio.Event()
        self.server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", limit),
                ("grpc.so_reuseport", int(reuse_port)),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        flyteidl = agent_service_pb2.DESCRIPTOR.services_by_name
        services = [
            (flyteidl["AsyncAgentService"], _Async(service)),
            (flyteidl["SyncAgentService"], _Sync(service)),
            (flyteidl["AgentMetadataService"], _Metadata(service)),
            (backend_pb2.DESCRIPTOR.services_by_name["BackendService"], _Backend(service, self.ending)),
            (health_pb2.DESCRIPTOR.services_by_name["Health"], _Health(service, self.ending)),
        ]
        self.server.add_generic_rpc_handlers([_handlers(descriptor, servicer) for descriptor, servicer in services])
        served = [*(descriptor.full_name for descriptor, _ in services), reflection.SERVICE_NAME]
        reflection.enable_server_reflection(served, self.server)
        try:
            if credentials is None:
                self.port = self.server.add_insecure_port(address)
            else:
                self.port = self.server.add_secure_port(address, credentials)
        except RuntimeError as e:
            raise OSError(f"{re.sub(r'; .*', '', str(e))[:200]}") from e

    async def start(self) -> None:
        await self.server.start()

    async def stop(self, grace: float) -> None:
        """Take no more calls; those under way have so long to end."""
        self.ending.set()
        await self.server.stop(grace)


def server_credentials(read: Callable[[], tuple[bytes, bytes, bytes | None]]) -> grpc.ServerCredentials:
    """Credentials of files that are read again when they change: ``read`` gives key, certificate, and the CA of clients."""
    last = read()
    needs_client = last[2] is not None

    def configuration(files: tuple[bytes, bytes, bytes | None]) -> Any:
        key, certificate, ca = files
        return grpc.ssl_server_certificate_configuration([(key, certificate)], ca)

    def fetch() -> Any:
        nonlocal last
        try:
            now = read()
        except OSError:
            return None  # keeps what there is
        if now == last:
            return None
        last = now
        return configuration(now)

    return grpc.dynamic_ssl_server_credentials(configuration(last), fetch, require_client_authentication=needs_client)
