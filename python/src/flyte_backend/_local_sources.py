"""Where tasks of a local run may run: plugins in this process, or a service. Both are called by REST, so both see the same."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from ._binding import natural
from ._errors import BackendError, ConfigurationError, UserError
from ._logging import show_failures
from ._plugin import BackendPluginBase
from ._registry import BackendPluginRegistry
from ._secrets import Secrets
from ._service import Service, ServiceOptions
from .client import BackendClient

T = TypeVar("T")

PLUGINS, ENDPOINT, TOKEN = "FLYTE_BACKEND_PLUGINS", "FLYTE_BACKEND_ENDPOINT", "FLYTE_BACKEND_TOKEN"
# How long calls that may succeed later are made again, in seconds.
PATIENCE = 600.0


@dataclass(frozen=True)
class Offer:
    """A plugin that takes a task."""

    client: BackendClient
    plugin_version: str
    is_sync: bool
    patience: float


class Source:
    """A place where tasks may run. It is opened, and asked what it takes, when the first task is looked up, and only then."""

    def __init__(self, name: str, connect: Callable[[], BackendClient], patience: float) -> None:
        self._name = name
        self._connect = connect
        self._patience = patience
        self._lock = threading.Lock()
        self._client: BackendClient | None = None
        self._listing: list[dict[str, Any]] | None = None

    def find(self, task_type: str, task_type_version: int) -> Offer | None:
        """The plugin for a task, chosen as a service does: one that names the task type's version goes before one that takes
        any, then the highest version. A plugin that can do both has its jobs polled."""
        with self._lock:
            if self._listing is None:
                self._listing = self._ask()
            assert self._client is not None
            fitting = [
                one
                for one in self._listing
                if one["task_type"] == task_type
                and (not one.get("task_type_versions") or task_type_version in one["task_type_versions"])
            ]
            if not fitting:
                return None
            best = max(
                fitting,
                key=lambda one: (
                    bool(one.get("task_type_versions")),
                    natural(one["plugin_version"]),
                    one.get("mode") != "sync",
                ),
            )
            return Offer(self._client, best["plugin_version"], best.get("mode") == "sync", self._patience)

    def _ask(self) -> list[dict[str, Any]]:
        if self._client is None:
            self._client = self._connect()
        try:
            return self._client.plugins()
        except BackendError as e:
            raise ConfigurationError(f"{self._name} does not say which task types it serves: {e}") from e

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = self._listing = None


def endpoint_source(url: str, *, token: str | Callable[[], str] = "", verify: Any = True, patience: float = PATIENCE) -> Source:
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"the endpoint is {url!r}; a URL is due, such as http://127.0.0.1:8080")

    def connect() -> BackendClient:
        client = BackendClient(url, token=token, verify=verify)
        client._http.event_hooks["response"].append(_refuse_too_large)
        return client

    return Source(f"the service at {url}", connect, patience)


def _refuse_too_large(response: httpx.Response) -> None:
    """What is too large would be so the next time, so it is not worth a wait as other lacks of room are."""
    if response.status_code == 413:
        raise UserError("the task with its inputs is larger than the service takes")


def plugins_source(
    plugins: Sequence[BackendPluginBase | str], *, secrets: Secrets | None = None, patience: float = PATIENCE
) -> Source:
    options = ServiceOptions(max_request_bytes=(1 << 31) - 1, secrets=secrets or Secrets())

    def connect() -> BackendClient:
        found = [plugin for plugin in plugins if not isinstance(plugin, str)]
        names = [name for name in plugins if isinstance(name, str)]
        for name in names:
            BackendPluginRegistry.load(name)
        if names:
            found += [plugin for plugin in BackendPluginRegistry.plugins() if plugin not in found]
        transport = InProcess(Service(found, options))
        return BackendClient("http://in-process", transport=transport, timeout=options.timeout + 30)

    return Source("this process", connect, patience)


class InProcess(httpx.BaseTransport):
    """Calls a service on an event loop of its own, in a thread. A call that is interrupted is cancelled there, too."""

    def __init__(self, service: Service) -> None:
        from .app import create_app  # FastAPI takes its time to be imported

        show_failures()
        self._service = service
        self._asgi = httpx.ASGITransport(create_app(service=service))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="flyte-backend-local", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # plugins may have to end things
        try:
            self._run(service.start())
        except BaseException:
            self.close()
            raise

    def _run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        answer: Future[T] = Future()
        tasks: list[asyncio.Task[T]] = []

        def tell(task: asyncio.Task[T]) -> None:
            if task.cancelled():
                answer.cancel()
            elif (error := task.exception()) is not None:
                answer.set_exception(error)
            else:
                answer.set_result(task.result())

        def start() -> None:
            tasks.append(self._loop.create_task(work))
            tasks[0].add_done_callback(tell)

        def stop() -> None:
            for task in tasks:
                task.cancel()

        try:
            self._loop.call_soon_threadsafe(start)
            return answer.result(timeout)
        except BaseException:  # it may come before the first line here has ended, but stop comes after start
            self._loop.call_soon_threadsafe(stop)
            raise

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._run(self._answer(request))

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        response = await self._asgi.handle_async_request(request)
        return httpx.Response(response.status_code, headers=response.headers, content=await response.aread())

    def close(self) -> None:
        if not self._loop.is_running():
            return
        atexit.unregister(self.close)
        try:
            self._run(self._service.stop(), 30)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            if not self._thread.is_alive():
                self._loop.close()


#: What :func:`flyte_backend.local.use` named, the last first.
added: list[Source] = []
_of_environment: dict[tuple[str, str, str], list[Source]] = {}


def sources() -> list[Source]:
    """All places, in the order in which they are asked. Those of the environment are made once."""
    said = (os.environ.get(PLUGINS, ""), os.environ.get(ENDPOINT, ""), os.environ.get(TOKEN, ""))
    if said not in _of_environment:
        plugins, endpoint, token = said
        made = []
        if names := [name.strip() for name in plugins.split(",") if name.strip()]:
            made.append(plugins_source(names))
        if endpoint:
            made.append(endpoint_source(endpoint, token=token))
        _of_environment[said] = made
    return [*added, *_of_environment[said]]


def find(task_type: str, task_type_version: int) -> Offer | None:
    """The plugin for a task, of the first place that has one; None when it is nobody's."""
    for source in sources():
        if (offer := source.find(task_type, task_type_version)) is not None:
            return offer
    return None
