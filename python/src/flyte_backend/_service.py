"""What the service does, whichever transport a call came by: finds the plugin, keeps to the limits, counts and logs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import types
from collections.abc import Awaitable, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from ._binding import Bound, Call, Slot, Wire, current_slot
from ._errors import (
    BackendError,
    Cancelled,
    ConfigurationError,
    DeadlineExceeded,
    FlyteBackendError,
    NotFound,
    Overloaded,
    PluginError,
    SystemError_,
    Unimplemented,
    UserError,
)
from ._logging import CALL
from ._metrics import NO_PLUGIN, Metrics
from ._plugin import BackendPluginBase
from ._registry import BackendPluginRegistry, PluginSet
from ._secrets import Secrets

T = TypeVar("T")

# The plugin's methods behind the calls, which are named as in gRPC.
METHODS = {"Create": "create", "Get": "poll", "GetMany": "poll_many", "Delete": "delete", "Execute": "execute", "Logs": "logs"}
METHODS |= {"Metrics": "metrics", "Watch": "watch"}

log = logging.getLogger("flyte_backend")

MAX_JOBS_IN_POLL = 1000
# How many jobs of one call are looked at at once by a plugin that cannot look at many.
POLLS_AT_ONCE = 16
# How often the loop is looked at, and how late it may be, in seconds.
WATCH_INTERVAL, LATE = 1.0, 1.0


@dataclass(frozen=True)
class ServiceOptions:
    """How plugins are served. Times are in seconds."""

    #: Limits a call of create, poll, delete, logs or metrics. One that takes longer is answered with 504, whether the plugin
    #: returns or not; 0 means no limit.
    timeout: float = 30.0
    #: Limits a call of execute; 0 means that its caller's deadline is the limit.
    execute_timeout: float = 0.0
    #: How many calls run plugins' code at once; one more is answered with 429.
    max_concurrent: int = 1024
    #: How large a request may be, in bytes; a larger one is answered with 413.
    max_request_bytes: int = 16 << 20
    #: How long a request's body may take to arrive.
    body_timeout: float = 60.0
    #: At the end, how long the service reports that it is not ready and still answers, so that load balancers see it.
    readiness_delay: float = 5.0
    #: Then, how long calls under way have to end.
    drain_timeout: float = 20.0
    #: How often a plugin's probe is asked, and how long it has to answer.
    probe_interval: float = 10.0
    #: Calls of plugins, and the pages about them, need a client certificate; health, readiness and metrics do without.
    needs_client_certificate: bool = False
    #: How many jobs a caller may follow on one stream (gRPC).
    max_watches: int = 10_000
    secrets: Secrets = field(default_factory=Secrets)

    def __post_init__(self) -> None:
        if self.max_concurrent <= 0:
            raise ConfigurationError(f"max_concurrent is {self.max_concurrent}, which would answer no call")
        if not 0 < self.max_request_bytes < 1 << 31:
            raise ConfigurationError(f"max_request_bytes is {self.max_request_bytes}; it is between 1 byte and 2 GiB")
        for name in ("timeout", "execute_timeout", "body_timeout", "readiness_delay", "drain_timeout"):
            if not 0 <= getattr(self, name) < 1e9:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it is a number of seconds, 0 or more")
        if not 0 < self.probe_interval < 1e9:
            raise ConfigurationError(f"probe_interval is {self.probe_interval}; it is a number of seconds over 0")


class Service:
    """Plugins that are served. It belongs to one event loop, from :meth:`start` to :meth:`stop`."""

    def __init__(self, plugins: Sequence[BackendPluginBase] | None = None, options: ServiceOptions | None = None) -> None:
        self.options = options or ServiceOptions()
        self.plugins = PluginSet(BackendPluginRegistry.plugins() if plugins is None else plugins)
        self.metrics = Metrics()
        self.readiness = "starting"
        #: Called with each change of it, by gRPC's health service.
        self.on_readiness: list[Callable[[bool], None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._executor: ThreadPoolExecutor | None = None

    # ---- life

    async def start(self) -> None:
        """Configure the plugins; an error of theirs keeps the service from starting."""
        if self._executor is not None:
            return
        self._executor = ThreadPoolExecutor(self.options.max_concurrent, "flyte-backend")
        for plugin in self.plugins.bound:
            plugin.executor, plugin.secrets = self._executor, self.options.secrets
        for plugin in self.plugins.bound:
            try:
                await plugin.configure()
            except Exception as e:  # it is somebody else's code
                log.debug("configure failed", exc_info=True)
                what = "" if isinstance(e, FlyteBackendError) else f"{type(e).__name__}: "  # ours say it in their text
                raise PluginError(f"{plugin.where} cannot be configured: {what}{e}") from e
        await self._probe()
        self._tasks = [asyncio.create_task(self._keep_probing()), asyncio.create_task(self._keep_watch())]

    def drain(self) -> None:
        """Report from now on that it is not ready."""
        self._set_readiness("draining")

    async def stop(self) -> None:
        """End what goes on, after the last call."""
        self.drain()
        for task in self._tasks:
            task.cancel()
        self.metrics.save()
        for plugin in self.plugins.bound:
            try:
                await asyncio.wait_for(plugin.close(), 10)
            except Exception:  # it is somebody else's code
                log.warning("a plugin failed to close", exc_info=True, extra={"plugin": str(plugin)})
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    @property
    def is_busy(self) -> bool:
        """Whether plugins' code still runs, even if nobody waits for it."""
        return self.metrics.calls_in_flight > 0

    def _set_readiness(self, now: str) -> None:
        self.metrics.set("ready", 1 if now == "ready" else 0)
        if now != self.readiness:
            self.readiness = now
            for tell in self.on_readiness:
                tell(now == "ready")

    async def _keep_probing(self) -> None:
        while True:
            await asyncio.sleep(self.options.probe_interval)
            await self._probe()

    async def _keep_watch(self) -> None:
        """Tells when an async method blocks, which stops all calls: its author would not know otherwise."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            await asyncio.sleep(WATCH_INTERVAL)
            late = loop.time() - began - WATCH_INTERVAL
            if late > LATE:
                log.warning(
                    "no call was answered for a while: an async method of a plugin blocks; a plain one gets a thread",
                    extra={"seconds": round(late, 1)},
                )
            self.metrics.save()

    async def _probe(self) -> None:
        ready = True
        for plugin in self.plugins.bound:
            try:
                await asyncio.wait_for(plugin.probe(), self.options.probe_interval)
            except Exception as e:  # it is somebody else's code
                ready = False
                log.warning("a plugin is not ready", extra={"plugin": str(plugin), "error": f"{type(e).__name__}: {e}"})
        if self.readiness != "draining":
            self._set_readiness("ready" if ready else "not ready")

    # ---- calls

    def listing(self) -> list[Wire]:
        return [
            {
                "name": plugin.name,
                "task_type": plugin.task_type,
                "plugin_version": plugin.version,
                "task_type_versions": list(plugin.task_type_versions),
                "mode": mode,
                "capabilities": plugin.capabilities if mode == "async" else [],
            }
            for mode in ("sync", "async")
            for plugin in self.plugins.bound
            if (plugin.is_async if mode == "async" else plugin.is_sync)
        ]

    def find(self, op: str, call: Call, can: Callable[[Bound], bool], *, about_job: bool = False) -> Bound:
        try:
            return self.plugins.find(call.task_type, call.plugin_version, call.task_type_version, can, about_job=about_job)
        except NotFound:
            self.metrics.ended(op, NO_PLUGIN, NO_PLUGIN, call.transport, "NotFound", 0)
            raise

    async def create(self, call: Call, deadline: float | None = None) -> bytes:
        plugin = self.find("Create", call, lambda p: p.is_async)
        return await self._guarded("Create", plugin, call, self._limit(deadline), plugin.create, call)

    async def poll(self, call: Call, deadline: float | None = None) -> tuple[Wire, str]:
        """The job's state, and the plugin version that told it."""
        plugin = self.find("Get", call, lambda p: p.is_async, about_job=True)
        return await self._guarded("Get", plugin, call, self._limit(deadline), plugin.poll, call), plugin.version

    async def poll_many(self, calls: Sequence[Call], deadline: float | None = None) -> list[Wire | BackendError]:
        """A result for each. What is wrong with one job is that job's result."""
        out: list[Wire | BackendError] = [SystemError_("it was not looked at")] * len(calls)
        groups: dict[int, tuple[Bound, list[int]]] = {}
        for i, call in enumerate(calls):
            try:
                plugin = self.find("Get", call, lambda p: p.is_async, about_job=True)
            except BackendError as e:
                out[i] = e
            else:
                groups.setdefault(id(plugin), (plugin, []))[1].append(i)
        limit = self._limit(deadline)
        at_once = asyncio.Semaphore(POLLS_AT_ONCE)

        async def many(plugin: Bound, at: Sequence[int]) -> None:
            group = [calls[i] for i in at]
            results: Sequence[Wire | BackendError]
            try:
                results = await self._guarded("GetMany", plugin, group[0], limit, plugin.poll_many, group)
            except BackendError as e:
                results = [e] * len(at)
            for i, result in zip(at, results, strict=True):
                out[i] = result

        async def one(plugin: Bound, i: int) -> None:
            async with at_once:
                try:
                    out[i] = await self._guarded("Get", plugin, calls[i], limit, plugin.poll, calls[i])
                except BackendError as e:
                    out[i] = e

        work: list[Awaitable[None]] = []
        for plugin, at in groups.values():
            work += [many(plugin, at)] if plugin.has("poll_many") else [one(plugin, i) for i in at]
        await asyncio.gather(*work)
        return out

    async def delete(self, call: Call, deadline: float | None = None) -> None:
        plugin = self.find("Delete", call, lambda p: p.is_async, about_job=True)
        with contextlib.suppress(NotFound):  # it is gone, which is what was wanted
            await self._guarded("Delete", plugin, call, self._limit(deadline), plugin.delete, call)

    async def execute(self, call: Call, deadline: float | None = None) -> tuple[Wire, str]:
        plugin = self.find("Execute", call, lambda p: p.is_sync)
        limit = min((s for s in (self.options.execute_timeout, deadline) if s), default=None)
        return await self._guarded("Execute", plugin, call, limit, plugin.execute, call), plugin.version

    async def logs(self, call: Call, lines: int, token: str, deadline: float | None = None) -> Wire:
        plugin = self.find("Logs", call, lambda p: p.is_async, about_job=True)
        if not plugin.has("logs"):
            raise Unimplemented(f"the plugin for task type {call.task_type!r} gives no logs")
        return await self._guarded("Logs", plugin, call, self._limit(deadline), plugin.logs, call, lines, token)

    async def job_metrics(
        self,
        call: Call,
        queries: Sequence[str],
        start: datetime | None,
        end: datetime | None,
        step: timedelta | None,
        deadline: float | None = None,
    ) -> Sequence[Wire]:
        plugin = self.find("Metrics", call, lambda p: p.is_async, about_job=True)
        if not plugin.has("metrics"):
            raise Unimplemented(f"the plugin for task type {call.task_type!r} gives no metrics")
        return await self._guarded(
            "Metrics", plugin, call, self._limit(deadline), plugin.metrics, call, queries, start, end, step
        )

    def _limit(self, deadline: float | None) -> float | None:
        mine = self.options.timeout or None
        return mine if not deadline else deadline if mine is None else min(mine, deadline)

    async def _guarded(
        self, op: str, plugin: Bound, call: Call, limit: float | None, work: Callable[..., Awaitable[T]], *args: Any
    ) -> T:
        """Runs a plugin's code, ``work(*args)``, within the limits, counts it, and logs how it ended."""
        begin = time.monotonic()
        try:
            result = await self._within(op, plugin, limit, work, args)
        except BackendError as e:
            self._tell(op, plugin, call, e, begin)
            raise
        except asyncio.CancelledError:
            self._tell(op, plugin, call, Cancelled("the caller hung up"), begin)
            raise
        took = time.monotonic() - begin
        self.metrics.ended(op, plugin.task_type, plugin.version, call.transport, "OK", took)
        if log.isEnabledFor(logging.DEBUG):
            log.debug(CALL, extra=_about(op, plugin, "OK", took))
        return result

    def _tell(self, op: str, plugin: Bound, call: Call, e: BackendError, begin: float) -> None:
        took = time.monotonic() - begin
        self.metrics.ended(op, plugin.task_type, plugin.version, call.transport, e.code.camel, took)
        level = logging.INFO if isinstance(e, (UserError, NotFound, Cancelled)) else logging.WARNING
        log.log(level, CALL, extra={**_about(op, plugin, e.code.camel, took), "error": str(e)})

    async def _within(
        self, op: str, plugin: Bound, limit: float | None, work: Callable[..., Awaitable[T]], args: tuple[Any, ...]
    ) -> T:
        """Answers in time, even when the plugin, which has a task of its own, does not: its place among the calls that run at
        once is then free only when it has really ended."""
        if self.metrics.calls_in_flight >= self.options.max_concurrent:
            self.metrics.add("calls_turned_away_total")
            raise Overloaded(f"the service runs {self.metrics.calls_in_flight} calls already, which is its limit", after=1)
        loop = asyncio.get_running_loop()
        over: asyncio.Future[T] = loop.create_future()
        slot = Slot(self._free, self._executor)
        self.metrics.calls_in_flight += 1
        task = loop.create_task(self._run(over, slot, op, plugin, work, args))
        timer: asyncio.TimerHandle | None = None
        try:
            # The plugin's first step, in which most polls end: waiting, and a timer, cost more than the rest of this.
            await _one_turn()
            if over.done():
                return over.result()
            if limit is not None:
                timer = loop.call_later(limit, _too_late, over, op)
            return await over
        except (asyncio.CancelledError, DeadlineExceeded):
            task.cancel()  # it has begun, since the loop keeps order, and lets go of its slot
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _free(self) -> None:
        self.metrics.calls_in_flight -= 1

    async def _run(
        self,
        over: asyncio.Future[T],
        slot: Slot,
        op: str,
        plugin: Bound,
        work: Callable[..., Awaitable[T]],
        args: tuple[Any, ...],
    ) -> None:
        """A plugin's code, as a task of its own, and what it comes to if somebody still waits for it."""
        current_slot.set(slot)
        error: BackendError | None = None
        try:
            result = await work(*args)
        except asyncio.CancelledError as e:
            # When somebody still waits, it was the plugin that did so, or it waited for something that was cancelled.
            if not over.done():
                error = plugin.as_error(e, METHODS[op])
        except BaseException as e:  # whatever a plugin throws ends its own call and nothing else
            error = plugin.as_error(e, METHODS[op])
        slot.let_go()
        if over.done():
            return
        if error is None:
            over.set_result(result)
        else:
            over.set_exception(error)


@types.coroutine
def _one_turn() -> Generator[None, None, None]:
    """Lets the loop run what it already has to, as asyncio.sleep(0) does."""
    yield


def _too_late(over: asyncio.Future[Any], op: str) -> None:
    if not over.done():
        over.set_exception(DeadlineExceeded(f"{op} did not end in time"))


def _about(op: str, plugin: Bound, code: str, took: float) -> dict[str, object]:
    return {
        "call": op,
        "task_type": plugin.task_type,
        "plugin_version": plugin.version,
        "code": code,
        "duration": round(took, 6),
    }
