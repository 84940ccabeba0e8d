"""What gRPC serves: flyteidl's agent services, the extension, health. Methods raise; ``_grpc`` makes answers of that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from typing import Any

from flyteidl.admin import agent_pb2
from flyteidl.core import literals_pb2, metrics_pb2
from google.protobuf import json_format, struct_pb2
from grpc_health.v1 import health_pb2

from ._binding import Call, Wire
from ._errors import BackendError, NotFound, Overloaded, Retry, SystemError_, Unimplemented, UserError
from ._grpc_messages import Context, deadline_of, job_call, ref_call, resource_of, result_of, task_call
from ._plugin import JobState
from ._proto.flytebackend.v1 import backend_pb2
from ._protojson import Invalid, timestamp
from ._service import MAX_JOBS_IN_POLL, Service

log = logging.getLogger("flyte_backend")

# The least time between two looks at a job that is followed, however often its plugin says that it changed.
WATCH_PAUSE = 0.05


# ---- flyteidl's services. Their methods raise; _handlers answers.


class AsyncAgents:
    def __init__(self, service: Service) -> None:
        self.service = service

    async def CreateTask(self, request: Any, context: Context) -> Any:
        call = task_call(request.template, context, request, request.inputs)
        job_id = await self.service.create(call, deadline_of(context))
        return agent_pb2.CreateTaskResponse(resource_meta=job_id)

    async def GetTask(self, request: Any, context: Context) -> Any:
        wire, _ = await self.service.poll(job_call(request, context), deadline_of(context))
        return agent_pb2.GetTaskResponse(resource=resource_of(wire))

    async def DeleteTask(self, request: Any, context: Context) -> Any:
        await self.service.delete(job_call(request, context), deadline_of(context))
        return agent_pb2.DeleteTaskResponse()

    async def GetTaskLogs(self, request: Any, context: Context) -> AsyncIterator[Any]:
        page = await self.service.logs(job_call(request, context), request.lines, request.token, deadline_of(context))
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
        call, queries = job_call(request, context), list(request.queries)
        found = await self.service.job_metrics(call, queries, start, end, step or None, deadline_of(context))
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


class SyncAgents:
    def __init__(self, service: Service) -> None:
        self.service = service

    async def ExecuteTaskSync(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        header, inputs = await _read_execute(requests)
        call = task_call(header.template, context, header, inputs)
        call.max_output_bytes = header.max_dataset_size_bytes
        wire, _ = await self.service.execute(call, deadline_of(context))
        yield agent_pb2.ExecuteTaskSyncResponse(header=agent_pb2.ExecuteTaskSyncResponseHeader(resource=resource_of(wire)))


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


class AgentMetadata:
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


class Backend:
    """flytebackend.v1.BackendService."""

    def __init__(self, service: Service, ending: asyncio.Event) -> None:
        self.service = service
        self.ending = ending

    async def GetTasks(self, request: Any, context: Context) -> Any:
        n = len(request.tasks)
        if not 0 < n <= MAX_JOBS_IN_POLL:
            raise UserError(f"the call names {n} jobs; 1 to {MAX_JOBS_IN_POLL} are due")
        found = await self.service.poll_many([ref_call(ref) for ref in request.tasks], deadline_of(context))
        return backend_pb2.GetTasksResponse(results=[result_of(one) for one in found])

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
                await self._follow(watched.watch_id, ref_call(watched.task))

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
            await self.context.write(backend_pb2.WatchTasksResponse(watch_id=watch_id, result=result_of(found)))

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


class Health:
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
