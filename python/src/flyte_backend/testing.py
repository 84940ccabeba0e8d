"""For tests of plugins: a job's whole life in one call, a real service for as long as a test lasts, the conformance suite.

::

    def test_square():
        assert run(Square(), {"x": 3}) == {"o0": 9}
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ._conformance import ConformanceReport, ConformanceResult, conformance
from ._errors import PluginError
from ._logging import show_failures
from ._plugin import BackendPluginBase
from ._server import Listening, Server
from ._service import Service, ServiceOptions
from .client import BackendClient, Job, JobView, _Pauses, _Requests, task_template

__all__ = ["ConformanceReport", "ConformanceResult", "RunningService", "conformance", "run", "serve", "task_template"]


def run(
    plugin: BackendPluginBase,
    inputs: Mapping[str, Any] | None = None,
    *,
    custom: Any = None,
    template: Any = None,
    outputs: Mapping[str, Any] | None = None,
    timeout: float = 10.0,
    over_http: bool = False,
    options: ServiceOptions | None = None,
) -> dict[str, Any]:
    """Run one task from create to its end, and give its outputs. Then delete it, twice, as propeller may.

    Values go through literals on the way in and out, as they do in Flyte. ``over_http`` goes through a real service on
    127.0.0.1 as well. ``template`` may be a task of flytekit's, or a TaskTemplate in any form that
    :meth:`BackendClient.submit` takes. ``outputs`` are the Python types that the task declares without one. A plugin that has
    only ``execute`` is run by it.

    It may be called where a loop runs, as in a notebook or an async test, which it blocks.

    Raises what the plugin raises, :class:`JobFailed` for a job that ends without success, and TimeoutError.
    """
    show_failures()
    if template is None:
        template = task_template(plugin.task_type, custom=custom, inputs=inputs, outputs=outputs)
    more: dict[str, Any] = {"custom": custom, "template": template, "version": plugin.version}
    if over_http:
        with serve(plugin, options=options) as service:
            if _is_sync(plugin):
                return service.client.execute(plugin.task_type, inputs, timeout=timeout, **more)
            job = service.client.submit(plugin.task_type, inputs, **more)
            try:
                return job.result(timeout)
            finally:
                job.cancel()
                job.cancel()
    work = _directly(plugin, inputs or {}, template, custom, timeout, options)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1, "flyte-backend-run") as pool:  # a loop runs already, as in a notebook
        return pool.submit(contextvars.copy_context().run, asyncio.run, work).result()


def _is_sync(plugin: BackendPluginBase) -> bool:
    return not hasattr(plugin, "create")


async def _directly(
    plugin: BackendPluginBase,
    inputs: Mapping[str, Any],
    template: Any,
    custom: Any,
    timeout: float,
    options: ServiceOptions | None,
) -> dict[str, Any]:
    from ._binding import Call
    from ._protojson import check_message

    body = _Requests.create(plugin.task_type, plugin.version, template, inputs, custom, "", None, "")["json"]
    task = {
        "template": check_message("flyteidl.core.TaskTemplate", body["template"]),
        "literals": check_message("flyteidl.core.LiteralMap", body["inputs"])["literals"],
        "key": uuid.uuid4().hex,
    }
    service = Service([plugin], options)
    await service.start()
    try:
        view = JobView(plugin.task_type, plugin.version, "")
        if _is_sync(plugin):
            wire, _ = await asyncio.wait_for(service.execute(Call(plugin.task_type, plugin.version, **task)), timeout)
            view._see(wire)
            return view._ended()
        job_id = await service.create(Call(plugin.task_type, plugin.version, **task))
        job = Call(plugin.task_type, plugin.version, job_id=job_id)
        pauses = _Pauses(timeout)
        try:
            while True:
                view._see((await service.poll(job))[0])
                if view.state.is_final:
                    return view._ended()
                await asyncio.sleep(pauses.after(view.poll_after, f"{view.state.value} {view.message}".strip()))
        finally:
            await service.delete(job)
            await service.delete(job)
    finally:
        await service.stop()


class RunningService:
    """A service that runs. ``client`` is a client of it."""

    def __init__(self, url: str, grpc_address: str | None) -> None:
        self.url = url
        self.grpc_address = grpc_address
        self.client = BackendClient(url)

    def submit(self, task_type: str, inputs: Mapping[str, Any] | None = None, **more: Any) -> Job:
        """As :meth:`BackendClient.submit`."""
        return self.client.submit(task_type, inputs, **more)


@contextlib.contextmanager
def serve(*plugins: BackendPluginBase, options: ServiceOptions | None = None, grpc: bool = False) -> Iterator[RunningService]:
    """A real service of plugins on free ports of 127.0.0.1, in a thread, for as long as the block lasts."""
    show_failures()
    options = options or ServiceOptions(readiness_delay=0, drain_timeout=2)
    server = Server(Service(_sequence(plugins), options), Listening(port=0, grpc_port=0 if grpc else None))
    ready = threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            asyncio.run(server.run(ready.set))
        except BaseException as e:  # told by the thread that waits
            failed.append(e)
        finally:
            ready.set()

    thread = threading.Thread(target=work, name="flyte-backend-service", daemon=True)
    thread.start()
    ready.wait()
    if failed:
        raise failed[0]
    running = RunningService(f"http://127.0.0.1:{server.port}", f"127.0.0.1:{server.grpc_port}" if grpc else None)
    try:
        yield running
    finally:
        running.client.close()
        server.end(at_once=True)
        thread.join(30)


def _sequence(plugins: Sequence[BackendPluginBase]) -> Sequence[BackendPluginBase]:
    if not plugins:
        raise PluginError("there is no plugin to serve: give one, or a list of them")
    return plugins
