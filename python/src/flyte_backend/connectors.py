"""flytekit's connectors as plugins: whatever ``pyflyte serve connector`` serves runs here too, over REST and gRPC.

::

    from flyte_backend.connectors import register_connectors

    register_connectors("flytekitplugins.bigquery")

or ``flyte-backend-serve --connectors flytekitplugins.bigquery``. It needs the extra ``flytekit``, which is imported when
connectors are asked for, and not before.

A connector gets what flytekit's own service gives it, by name: ``task_template``, ``inputs``, ``output_prefix`` and
``task_execution_metadata`` as flytekit's models, and ``resource_meta`` as its own class. A job's id is what that class's
``encode()`` gives. Methods that are ``async`` run on the loop, plain ones in threads.
"""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from ._binding import in_thread
from ._connector_errors import error_of_connector
from ._connector_values import log_lines, metrics_of, outputs_of
from ._errors import BackendError, NotFound, PluginError, SystemError_, UserError
from ._plugin import BackendPluginBase, JobState, JobStatus, LogLink, LogPage, Metric, TaskInfo
from ._registry import BackendPluginRegistry, importing

__all__ = ["connector_plugin", "register_connectors"]

log = logging.getLogger("flyte_backend.plugin")

#: The modules of flytekit itself that register connectors.
FLYTEKITS_OWN = ("flytekit.sensor", "flytekit.extras.webhook")

METHODS = ("create", "get", "delete", "get_logs", "get_metrics", "do")


# ---- registering


def register_connectors(*what: Any, version: str = "v1") -> list[BackendPluginBase]:
    """Register connectors of flytekit's as plugins in :class:`BackendPluginRegistry`, and give the plugins.

    Each argument is the name of a module, or a connector. A module stands for the connectors that it registers with flytekit
    when it is imported, that are of its classes, or of classes that it imports: ``flytekit`` for flytekit's own (sensor and
    webhook), ``flytekitplugins.bigquery`` for one plugin, ``flytekitplugins`` for all of them that are installed. Without
    arguments it is everything that flytekit knows of. One that is registered already stays as it is.

    ``version`` is the plugin version. A connector's own version is that of its tasks, and 0 means any, as in the contract.

    Raises :class:`PluginError`, with one line that says why: a module that cannot be imported or has no connectors, a connector
    that cannot be served, or another plugin that has its tasks.
    """
    _import_flytekit()
    found: list[Any] = []
    for one in what or ("flytekit",):
        found += _of_module(one) if isinstance(one, str) else [one]
    if not what:
        found += _known()
    known = {id(p.connector) for p in BackendPluginRegistry.plugins() if isinstance(p, _Connector)}
    plugins: list[BackendPluginBase] = []
    for connector in found:
        if id(connector) not in known:
            known.add(id(connector))
            plugins.append(connector_plugin(connector, version=version))
            BackendPluginRegistry.register(plugins[-1])
    return plugins


def connector_plugin(connector: Any, *, version: str = "v1") -> BackendPluginBase:
    """A connector of flytekit's as a plugin. Raises :class:`PluginError` for what is no connector."""
    _import_flytekit()
    from flytekit.extend.backend.base_connector import AsyncConnectorBase, SyncConnectorBase

    if isinstance(connector, SyncConnectorBase):
        return _Sync(connector, version)
    if isinstance(connector, AsyncConnectorBase):
        return _Async(connector, version)
    raise PluginError(f"{connector!r} is neither an AsyncConnectorBase nor a SyncConnectorBase of flytekit's")


def use_service_log() -> None:
    """What flytekit and connectors log goes where this process logs, in its form, and not to a console of flytekit's own."""
    for name in ("flytekit", "user_space"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def _import_flytekit() -> str:
    """flytekit's version."""
    try:
        with importing("flytekit", "flytekit"):
            import flytekit
            import flytekit.extend.backend.base_connector
    except PluginError as e:
        if isinstance(e.__cause__, ModuleNotFoundError) and e.__cause__.name == "flytekit":
            raise PluginError("serving flytekit's connectors needs flytekit: pip install 'flyte-backend[flytekit]'") from e
        raise
    version: str = flytekit.__version__
    return version


def _known() -> list[Any]:
    from flytekit.extend.backend.base_connector import ConnectorRegistry

    return list(ConnectorRegistry._REGISTRY.values())


def _of_module(name: str) -> list[Any]:
    before = {id(connector) for connector in _known()}
    with importing(name, f"connector module {name!r}"):
        module = importlib.import_module(name)
        for own in FLYTEKITS_OWN if name == "flytekit" else ():
            importlib.import_module(own)
    # flytekit imports plugins that are installed by itself, so they may have been known before.
    exposed = {id(value) for value in vars(module).values() if isinstance(value, type)} if name != "flytekit" else set()
    found = [
        connector
        for connector in _known()
        if f"{type(connector).__module__}.".startswith(f"{name}.")
        or id(type(connector)) in exposed
        or id(connector) not in before
        and name != "flytekit"
    ]
    if not found:
        raise PluginError(f"module {name!r} registered no connector: it calls flytekit's ConnectorRegistry.register(…)")
    return found


# ---- plugins


class _Method:
    """A method of a connector."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        parameters = inspect.signature(function).parameters.values()
        self.named = {p.name for p in parameters}
        self.takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)

    async def __call__(self, given: Mapping[str, Any], extra: Mapping[str, Any]) -> Any:
        """It gets what flytekit gives it, as far as it takes it, and of the rest what it names. A stream becomes a list."""
        function = self.function
        kwargs = {name: value for name, value in given.items() if self.takes_all or name in self.named}
        kwargs |= {name: value for name, value in extra.items() if name in self.named}
        if inspect.iscoroutinefunction(function):
            return await function(**kwargs)
        if inspect.isasyncgenfunction(function):
            return [one async for one in function(**kwargs)]
        if inspect.isgeneratorfunction(function):
            return await in_thread(lambda: list(function(**kwargs)))
        result = await in_thread(function, **kwargs)
        return await result if inspect.isawaitable(result) else result


class _Connector(BackendPluginBase):
    """What both kinds have in common."""

    def __init__(self, connector: Any, version: str) -> None:
        from flytekit import FlyteContextManager
        from flytekit.extend.backend.base_connector import AsyncConnectorBase, SyncConnectorBase

        category = connector.task_category
        unnamed = connector.name in (AsyncConnectorBase.name, SyncConnectorBase.name)
        super().__init__(
            task_type=category.name,
            version=version,
            name=type(connector).__name__ if unnamed else connector.name,
            task_type_versions=(category.version,) if category.version else (),
        )
        self.connector = connector
        self.defined_in = f"{type(connector).__module__}.{type(connector).__qualname__}"
        self.runs_on = {"flytekit": _import_flytekit()}
        self._context = FlyteContextManager.current_context()
        self._methods = {name: _Method(getattr(connector, name)) for name in METHODS if hasattr(connector, name)}

    @asynccontextmanager
    async def _call(self, method: str) -> AsyncIterator[None]:
        """Errors are put into the terms of this package, and the call has a stack of flytekit's contexts of its own: it is a
        list that flytekit changes in place, and all tasks of a loop would share it."""
        from flytekit.core.context_manager import flyte_context_Var

        flyte_context_Var.set([self._context])
        try:
            yield
        except Exception as e:  # it is somebody else's code
            if isinstance(e, BackendError):
                raise
            error = error_of_connector(e, method)
            if isinstance(error, SystemError_) and not isinstance(error, NotFound):
                log.error("the connector failed in %s", method, exc_info=e, extra={"task_type": self.task_type})
            raise error from e

    async def _run(self, method: str, given: Mapping[str, Any], extra: Mapping[str, Any]) -> Any:
        return await self._methods[method](given, extra)

    async def _status(self, resource: Any, types: Mapping[str, Any]) -> JobStatus:
        """What a connector says of a job."""
        from flyteidl.core.execution_pb2 import TaskExecution
        from flytekit.extend.backend.base_connector import Resource

        if not isinstance(resource, Resource):
            raise SystemError_(f"the connector gave a {type(resource).__name__} as a job's state; a Resource is due")
        try:
            phase = TaskExecution.Phase.Name(resource.phase)
            state = JobState(phase)
        except (ValueError, TypeError):
            raise SystemError_(f"the connector gave a job the phase {resource.phase!r}, which is none") from None
        outputs = None
        if resource.outputs is not None and state is JobState.SUCCEEDED:
            outputs = await outputs_of(resource.outputs, types, self._context)
        # No error: propeller then looks for the one that the job itself may have written at the output prefix.
        return JobStatus(
            state,
            resource.message or "",
            outputs=outputs,
            log_links=[LogLink(link.name, link.uri) for link in resource.log_links or ()],
            custom_info=resource.custom_info or None,
        )


class _Async(_Connector):
    """A connector whose tasks are jobs."""

    def __init__(self, connector: Any, version: str) -> None:
        from flytekit.extend.backend.base_connector import AsyncConnectorBase

        super().__init__(connector, version)
        # Both are optional: who has them overrides them.
        if type(connector).get_logs is not AsyncConnectorBase.get_logs:
            self.logs = self._logs
        if type(connector).get_metrics is not AsyncConnectorBase.get_metrics:
            self.metrics = self._metrics

    def _meta(self, job_id: bytes) -> dict[str, Any]:
        """Ids that the connector cannot have made are no jobs."""
        try:
            return {"resource_meta": self.connector.metadata_type.decode(job_id)}
        except Exception:  # it is somebody else's code, and what it reads may be anything
            raise NotFound("no such job: its id is none of this connector's") from None

    async def create(self, task: TaskInfo) -> bytes:
        async with self._call("create"):
            given = await in_thread(_models, task)  # it may be large
            meta = await self._run("create", given, {"idempotency_key": task.idempotency_key})
            job_id = meta.encode() if hasattr(meta, "encode") else None
            if not isinstance(job_id, bytes):
                raise SystemError_(
                    f"the connector gave a {type(meta).__name__} as a job's metadata; its encode() is to give bytes"
                )
            return job_id

    async def poll(self, job_id: bytes, output_prefix: str) -> JobStatus:
        async with self._call("get"):
            resource = await self._run("get", self._meta(job_id), {"output_prefix": output_prefix})
            return await self._status(resource, {})

    async def delete(self, job_id: bytes) -> None:
        async with self._call("delete"):
            await self._run("delete", self._meta(job_id), {})

    async def _logs(self, job_id: bytes, lines: int, token: str) -> LogPage:
        async with self._call("get_logs"):
            found = await self._run("get_logs", self._meta(job_id), {"lines": lines, "token": token})
            return log_lines(found if isinstance(found, (list, tuple)) else [found])

    async def _metrics(self, job_id: bytes, queries: list[str], start: Any, end: Any, step: Any) -> list[Metric]:
        async with self._call("get_metrics"):
            extra = {"queries": queries, "start_time": start, "end_time": end, "step": step}
            return metrics_of(await self._run("get_metrics", self._meta(job_id), extra))


class _Sync(_Connector):
    """A connector whose tasks are one call."""

    async def execute(self, task: TaskInfo) -> JobStatus:
        async with self._call("do"):
            given = await in_thread(_models, task)  # it may be large
            extra = {"idempotency_key": task.idempotency_key, "task_execution_metadata": given.pop("task_execution_metadata")}
            declared = task.template.get("interface", {}).get("outputs", {}).get("variables", {})
            types = {name: variable.get("type") for name, variable in declared.items()}
            return await self._status(await self._run("do", given, extra), types)


def _models(task: TaskInfo) -> dict[str, Any]:
    """A task as flytekit's models, by the names that connectors take them by."""
    from flytekit.models.literals import LiteralMap
    from flytekit.models.task import TaskExecutionMetadata, TaskTemplate

    messages = task.messages
    try:
        return {
            "task_template": TaskTemplate.from_flyte_idl(messages.template),
            "inputs": LiteralMap.from_flyte_idl(messages.inputs),
            "output_prefix": task.output_prefix,
            "task_execution_metadata": TaskExecutionMetadata.from_flyte_idl(messages.metadata),
        }
    except Exception as e:  # what flytekit expects of a message it does not check
        raise UserError(f"flytekit cannot read the task: {type(e).__name__}") from e
