"""Makes a plugin's methods callable by the service: fills in what they name, and puts what they give into the wire's form.

Everything that can be wrong with a plugin before the first call is found here, when it is registered.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import functools
import inspect
import json
import logging
import re
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from ._errors import BackendError, NotFound, PluginError, SecretError, SystemError_, UnknownError, UserError, seconds
from ._plugin import (
    BackendPluginBase,
    JobRef,
    JobState,
    JobStatus,
    Logger,
    LogLine,
    LogLink,
    LogPage,
    Metric,
    TaskInfo,
    TaskMessages,
)
from ._protojson import Invalid
from ._secrets import Secrets
from ._values import decode_literals, encode, encode_outputs, encode_struct, variables_of

MAX_JOB_ID = 64 << 10

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")

# What the methods may take, by name.
_ALWAYS = ("secrets", "log")
_OF_TASK = (
    "task",
    "inputs",
    "custom",
    "template",
    "literals",
    "output_prefix",
    "metadata",
    "idempotency_key",
    "plugin_version",
    *_ALWAYS,
)
_OF_JOB = ("job_id", "plugin_version", *_ALWAYS)
PARAMETERS: dict[str, tuple[str, ...]] = {
    "create": _OF_TASK,
    "execute": (*_OF_TASK, "max_output_bytes"),
    "poll": (*_OF_JOB, "output_prefix"),
    "delete": _OF_JOB,
    "poll_many": ("jobs", *_ALWAYS),
    "watch": (*_OF_JOB, "changed"),
    "logs": (*_OF_JOB, "lines", "token"),
    "metrics": (*_OF_JOB, "queries", "start", "end", "step"),
    "configure": _ALWAYS,
    "probe": _ALWAYS,
    "close": (),
}

# Methods about jobs that there are already.
_OF_JOBS = ("poll", "poll_many", "delete", "watch", "logs", "metrics")


@dataclass
class Call:
    """What a call brought."""

    task_type: str
    plugin_version: str = ""
    task_type_version: int = 0
    key: str = ""
    template: Mapping[str, Any] = field(default_factory=dict)
    literals: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    output_prefix: str = ""
    max_output_bytes: int = 0
    job_id: bytes = b""
    transport: str = "rest"
    #: The task as it came over gRPC.
    messages: TaskMessages | None = None


Wire = dict[str, Any]
"""A job's state as ``JobStatus`` of the contract has it, without ``job_spec``."""


class Slot:
    """A place among the calls that run at once. It is free when all that hold it have let go, in whichever thread they are."""

    def __init__(self, release: Callable[[], None], executor: Executor | None = None) -> None:
        self.executor = executor
        self._loop = asyncio.get_running_loop()
        self._release = release
        self._holders = 1

    def hold(self) -> None:
        self._holders += 1

    def let_go(self) -> None:
        self._holders -= 1
        if self._holders == 0:
            self._release()

    def let_go_from(self, _: Future[Any]) -> None:
        """As a thread's last deed."""
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody counts any more
            self._loop.call_soon_threadsafe(self.let_go)


current_slot: contextvars.ContextVar[Slot | None] = contextvars.ContextVar("current_slot", default=None)


async def in_thread(function: Callable[..., Any], *args: Any, executor: Executor | None = None, **kwargs: Any) -> Any:
    """Run a function that may block, in a thread of the service's. Its call keeps its place until the thread has ended."""
    slot = current_slot.get()
    executor = executor or (slot.executor if slot is not None else None)
    call = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
    if executor is None:
        return await asyncio.get_running_loop().run_in_executor(None, call)
    running = executor.submit(call)
    if slot is not None:
        slot.hold()
        running.add_done_callback(slot.let_go_from)
    return await asyncio.wrap_future(running)


class _Method:
    """A method of a plugin, and the names of what it takes."""

    def __init__(self, plugin: BackendPluginBase, name: str) -> None:
        self.name = name
        self.where = f"{type(plugin).__qualname__}.{name}"
        self.function: Callable[..., Any] = getattr(plugin, name)
        self.is_async = inspect.iscoroutinefunction(self.function)
        self.types: dict[str, Any] = {}
        allowed = PARAMETERS[name]
        try:
            signature = inspect.signature(self.function)
            hints = typing.get_type_hints(getattr(self.function, "__func__", self.function), include_extras=True)
        except (NameError, TypeError, ValueError) as e:
            raise PluginError(
                f"the annotations of {self.where} cannot be read: {e}; import what they name outside of TYPE_CHECKING"
            ) from e
        self.passed: list[tuple[str, str]] = []  # by which name, what
        self.first = ""
        for i, parameter in enumerate(signature.parameters.values()):
            if parameter.kind is parameter.VAR_KEYWORD or parameter.kind is parameter.VAR_POSITIONAL:
                continue
            what = parameter.name
            if what not in allowed and i == 0 and allowed and allowed[0] not in _ALWAYS:
                what = allowed[0]  # the first one may be called anything
            if what not in allowed:
                if parameter.default is not parameter.empty:
                    continue
                takes = ", ".join(allowed) or "nothing"
                raise PluginError(f"{self.where} takes {parameter.name!r}, which there is not; a {name} can take {takes}")
            if parameter.kind is parameter.POSITIONAL_ONLY:
                if i > 0:
                    raise PluginError(f"{self.where} takes {parameter.name!r} by position only; drop the /")
                self.first = what
            else:
                self.passed.append((parameter.name, what))
            if parameter.name in hints:
                self.types[what] = hints[parameter.name]

    def takes(self, what: str) -> bool:
        return self.first == what or any(w == what for _, w in self.passed)

    def __call__(self, executor: Executor, value: Callable[[str], Any]) -> Awaitable[Any]:
        args = [value(self.first)] if self.first else []
        kwargs = {name: value(what) for name, what in self.passed}
        if self.is_async:
            called: Awaitable[Any] = self.function(*args, **kwargs)
            return called
        return self._in_thread(executor, functools.partial(self.function, *args, **kwargs))

    async def _in_thread(self, executor: Executor, call: Callable[[], Any]) -> Any:
        result = await in_thread(call, executor=executor)
        return await result if inspect.isawaitable(result) else result


class _JobId:
    """How job ids travel: text and bytes as they are, anything else as JSON."""

    def __init__(self, kind: Any, where: str) -> None:
        self.kind = kind
        self.adapter: TypeAdapter[Any] | None = None
        if kind in (str, bytes):
            return
        try:
            self.adapter = TypeAdapter(kind)
        except Exception as e:  # pydantic's errors of schemas have no common base that is public
            raise PluginError(f"the job id of {where}, {kind!r}, cannot be written as JSON: {e}") from e

    def encode(self, job_id: Any) -> bytes:
        if self.adapter is not None:
            try:
                checked = self.adapter.validate_python(job_id, strict=True)
                raw = self.adapter.dump_json(checked)
            except ValueError as e:
                raise SystemError_(f"the plugin gave a job id that is no {_name_of(self.kind)}") from e
        elif not isinstance(job_id, self.kind):
            raise SystemError_(
                f"the plugin gave a job id that is a {type(job_id).__name__}, "
                f"not a {self.kind.__name__} as poll's annotation of job_id says"
            )
        else:
            raw = job_id if isinstance(job_id, bytes) else job_id.encode("utf-8", "replace")
        if not 0 < len(raw) <= MAX_JOB_ID:
            raise SystemError_(f"the plugin gave a job id of {len(raw)} bytes; it takes 1 to {MAX_JOB_ID}")
        return raw

    def decode(self, raw: bytes) -> Any:
        """NotFound for an id that create cannot have made. It is not shown: it is opaque to everybody else."""
        if not raw:
            raise UserError("the call names no job: its id is empty")
        if self.kind is bytes:
            return raw
        try:
            return raw.decode() if self.adapter is None else self.adapter.validate_json(raw)
        except ValueError:
            raise NotFound("no such job: its id is none of this plugin's") from None


def _name_of(kind: Any) -> str:
    return getattr(kind, "__name__", None) or str(kind)


class _Declared:
    """A type that the plugin wants inputs or custom to be."""

    def __init__(self, kind: Any, what: str, where: str) -> None:
        self.what = what
        try:
            self.adapter: TypeAdapter[Any] = TypeAdapter(kind)
        except Exception as e:  # pydantic's errors of schemas have no common base that is public
            raise PluginError(f"{where} wants {what} to be {kind!r}, which they cannot become: {e}") from e

    def __call__(self, values: Mapping[str, Any]) -> Any:
        try:
            return self.adapter.validate_python(values)
        except ValidationError as e:
            wrong = e.errors(include_url=False, include_context=False, include_input=False)
            places = "; ".join(f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}" for one in wrong[:5])
            raise UserError(f"the task's {self.what}: {places}") from e


def _is_plain(hint: Any) -> bool:
    """A dict of anything is what there is anyway."""
    return hint is Any or hint is dict or typing.get_origin(hint) in (dict, Mapping) and typing.get_args(hint)[1] is Any


class Bound:
    """A plugin that can be served."""

    def __init__(self, plugin: BackendPluginBase) -> None:
        if isinstance(plugin, type):
            raise PluginError(f"{plugin.__qualname__} is a class; register a plugin, {plugin.__qualname__}()")
        if not isinstance(plugin, BackendPluginBase):
            raise PluginError(f"{plugin!r} is no BackendPluginBase")
        self.plugin = plugin
        self.where = plugin.defined_in or f"{type(plugin).__module__}.{type(plugin).__qualname__}"
        self.task_type, self.version, self.name = plugin.task_type, plugin.version, plugin.name or plugin.task_type
        self.task_type_versions = tuple(plugin.task_type_versions)
        self.order = natural(self.version)
        self._check_names()
        methods = {name: _Method(plugin, name) for name in PARAMETERS if callable(getattr(plugin, name, None))}
        self._methods = methods
        job_methods = {"create", "poll", "delete"}
        missing = sorted(job_methods - methods.keys())
        self.is_async, self.is_sync = not missing, "execute" in methods
        if missing and (len(missing) < 3 or not self.is_sync):
            raise PluginError(
                f"{self.where} has no {' and no '.join(missing)}; "
                "a plugin has create, poll and delete, or execute, or all of them"
            )
        if not self.is_async:
            for name in {"poll_many", "watch", "logs", "metrics"} & methods.keys():
                raise PluginError(f"{self.where} has {name} but no jobs: it has no create, poll and delete")
        self._job_id = _JobId(self._job_type(), self.where)
        self._declared = {
            f"{name}.{what}": _Declared(methods[name].types[what], what, methods[name].where)
            for name in ("create", "execute")
            for what in ("inputs", "custom")
            if name in methods and what in methods[name].types and not _is_plain(methods[name].types[what])
        }
        try:
            self._outputs = None if plugin.outputs is None else variables_of(plugin.outputs)
        except Invalid as e:
            raise PluginError(f"the outputs of {self.where}: {e}") from e
        self.capabilities = sorted(
            {"logs": "logs", "metrics": "metrics", "poll_many": "poll", "watch": "watch"}[name]
            for name in ("logs", "metrics", "poll_many", "watch")
            if name in methods
        )
        self.executor: Executor
        self.secrets = Secrets()
        self.log: Logger = logging.LoggerAdapter(
            logging.getLogger("flyte_backend.plugin"), {"task_type": self.task_type, "plugin_version": self.version}
        )

    def _check_names(self) -> None:
        if not isinstance(self.task_type, str) or not self.task_type:
            raise PluginError(f'{self.where} has no task type; its __init__ calls super().__init__(task_type="…")')
        if not isinstance(self.version, str) or not _VERSION.fullmatch(self.version):
            raise PluginError(
                f"the version of {self.where}, {self.version!r}, is not 1 to 64 letters, digits "
                "and ._+- that begin with a letter or digit"
            )
        for version in self.task_type_versions:
            if not isinstance(version, int) or isinstance(version, bool) or not 0 < version < 1 << 31:
                raise PluginError(
                    f"{self.where} wants task type version {version!r}; "
                    "one is a positive number, and to take any leave them out"
                )

    def _job_type(self) -> Any:
        given: dict[str, Any] = {}
        for name in ("poll", "delete", "watch", "logs", "metrics"):
            if name in self._methods and "job_id" in self._methods[name].types:
                given[name] = self._methods[name].types["job_id"]
        if len({repr(kind) for kind in given.values()}) > 1:
            told = ", ".join(f"{name} {_name_of(kind)}" for name, kind in given.items())
            raise PluginError(f"the methods of {self.where} do not agree what a job id is: {told}")
        kind = next(iter(given.values()), str)
        return str if kind is Any else kind

    def __str__(self) -> str:
        return f"{self.task_type} {self.version}"

    def has(self, method: str) -> bool:
        return method in self._methods

    def overlaps(self, other: Bound) -> bool:
        """Whether the two take the same tasks in the same way."""
        if (self.task_type, self.version) != (other.task_type, other.version):
            return False
        if not (self.is_async and other.is_async or self.is_sync and other.is_sync):
            return False
        if not self.task_type_versions or not other.task_type_versions:
            return not self.task_type_versions and not other.task_type_versions
        return bool(set(self.task_type_versions) & set(other.task_type_versions))

    # ---- calls

    def _run(self, name: str, value: Callable[[str], Any]) -> Awaitable[Any]:
        return self._methods[name](self.executor, value)

    def _values(self, **more: Any) -> Callable[[str], Any]:
        """What any method can take, and more."""
        return {"secrets": self.secrets, "log": self.log, **more}.__getitem__

    def _task_values(self, name: str, call: Call) -> Callable[[str], Any]:
        task = TaskInfo(
            call.template,
            literals=call.literals,
            output_prefix=call.output_prefix,
            metadata=call.metadata,
            idempotency_key=call.key,
            plugin_version=call.plugin_version,
            max_output_bytes=call.max_output_bytes,
            secrets=self.secrets,
            log=self.log,
            messages=call.messages,
        )

        def value(what: str) -> Any:
            if what == "task":
                return task
            found = getattr(task, what)
            declared = self._declared.get(f"{name}.{what}")
            return declared(found) if declared else found

        return value

    def _job_values(self, call: Call, **more: Any) -> Callable[[str], Any]:
        job_id = self._job_id.decode(call.job_id)
        return self._values(job_id=job_id, output_prefix=call.output_prefix, plugin_version=call.plugin_version, **more)

    async def create(self, call: Call) -> bytes:
        return self._job_id.encode(await self._run("create", self._task_values("create", call)))

    async def poll(self, call: Call) -> Wire:
        return self._status(await self._run("poll", self._job_values(call)), self._outputs)

    async def delete(self, call: Call) -> None:
        await self._run("delete", self._job_values(call))

    async def execute(self, call: Call) -> Wire:
        given = await self._run("execute", self._task_values("execute", call))
        if given is None or isinstance(given, (Mapping, BaseModel)):
            given = JobStatus(JobState.SUCCEEDED, outputs=given or {})
        elif dataclasses.is_dataclass(given) and not isinstance(given, (JobStatus, type)):
            given = JobStatus(JobState.SUCCEEDED, outputs=given)
        declared = call.template.get("interface", {}).get("outputs", {}).get("variables", {})
        types = {name: variable.get("type") for name, variable in declared.items()}
        wire = self._status(given, types or self._outputs)
        if not JobState(wire["job_state"]).is_final:
            raise SystemError_(f"the plugin ended a synchronous task in state {wire['job_state']}, which is not final")
        return wire

    async def poll_many(self, calls: Sequence[Call]) -> list[Wire | BackendError]:
        """A result for each, in their order. The plugin is not asked about ids that it cannot have made."""
        out: list[Wire | BackendError] = [SystemError_("the plugin gave no result")] * len(calls)
        jobs, at = [], []
        for i, call in enumerate(calls):
            try:
                jobs.append(JobRef(self._job_id.decode(call.job_id), call.output_prefix))
                at.append(i)
            except BackendError as e:
                out[i] = e
        if not jobs:
            return out
        results = await self._run("poll_many", self._values(jobs=jobs))
        if not isinstance(results, (list, tuple)) or len(results) != len(jobs):
            what = f"{len(results)} results" if isinstance(results, (list, tuple)) else f"a {type(results).__name__}"
            raise SystemError_(f"the plugin gave {what} for {len(jobs)} jobs; a list with one for each is due")
        for i, result in zip(at, results, strict=True):
            try:
                if isinstance(result, Exception):
                    out[i] = self.as_error(result, "poll_many")
                else:
                    out[i] = self._status(result, self._outputs)
            except BackendError as e:
                out[i] = e
        return out

    async def watch(self, call: Call, changed: Callable[[], None]) -> None:
        await self._run("watch", self._job_values(call, changed=changed))

    async def logs(self, call: Call, lines: int, token: str) -> Wire:
        page = await self._run("logs", self._job_values(call, lines=lines, token=token))
        if isinstance(page, str):
            page = LogPage(page.splitlines(keepends=True))
        elif isinstance(page, (list, tuple)):
            page = LogPage(page)
        if not isinstance(page, LogPage):
            raise SystemError_(f"the plugin gave a {type(page).__name__} as a page of the log; a LogPage is due")
        out = []
        for line in page.lines:
            if isinstance(line, str):
                line = LogLine(line)
            if not isinstance(line, LogLine) or not isinstance(line.message, str):
                raise SystemError_("the plugin gave a page of the log with a line that is no LogLine")
            one: Wire = {"message": _clean(line.message), "system": bool(line.system)}
            if line.time is not None:
                try:
                    one["time"] = _rfc3339(line.time)
                except ValueError:
                    raise SystemError_("the plugin gave a line of the log with a time that is none") from None
            out.append(one)
        return {"lines": out, "next": _clean(str(page.next))}

    async def metrics(
        self, call: Call, queries: Sequence[str], start: datetime | None, end: datetime | None, step: timedelta | None
    ) -> list[Wire]:
        values = self._job_values(call, queries=list(queries), start=start, end=end, step=step)
        found = await self._run("metrics", values)
        if isinstance(found, Mapping):
            found = [Metric(str(name), data) for name, data in found.items()]
        out = []
        for metric in found if isinstance(found, (list, tuple)) else [found]:
            if not isinstance(metric, Metric):
                raise SystemError_(f"the plugin gave a {type(metric).__name__} as a metric; a Metric is due")
            one: Wire = {"name": metric.name}
            if metric.data is not None:
                try:
                    one["data"] = encode_struct(metric.data)
                except Invalid as e:
                    raise SystemError_(f"the plugin's metric {metric.name}: {e}") from e
            out.append(one)
        return out

    async def configure(self) -> None:
        if self.has("configure"):
            await self._run("configure", self._values())

    async def probe(self) -> None:
        """Raises when the plugin says that it cannot work. False is one way to say so."""
        if self.has("probe") and await self._run("probe", self._values()) is False:
            raise FailedProbe("it says so")

    async def close(self) -> None:
        if self.has("close"):
            await self._run("close", self._values())

    # ---- results

    def as_error(self, e: BaseException, method: str) -> BackendError:
        """What the caller is told. What a plugin did not foresee may hold anything, so it goes to the log and no further."""
        if isinstance(e, SecretError) and method in _OF_JOBS:  # nothing is wrong with the job
            return SystemError_(e.message, reason=e.reason, after=e.after)
        if isinstance(e, BackendError):
            return e
        self.log.error("the plugin failed in %s", method, exc_info=(type(e), e, e.__traceback__))
        return UnknownError(f"the plugin failed in {method} with {type(e).__name__}; the service's log has the details")

    def _status(self, status: Any, types: Mapping[str, Any] | None) -> Wire:
        if not isinstance(status, JobStatus):
            raise SystemError_(
                f"the plugin gave a {type(status).__name__} as a job's state; a JobStatus is due, such as running()"
            )
        try:
            state = status.state if type(status.state) is JobState else JobState(status.state)
        except ValueError:
            raise SystemError_("the plugin gave a job whose state is none of JobState's") from None
        wire: Wire = {"job_state": state.value, "error_code": "", "message": _clean(str(status.message))}
        if status.outputs is not None and state is JobState.SUCCEEDED:
            try:
                wire["outputs"] = encode_outputs(status.outputs, types)
            except Invalid as e:
                raise SystemError_(f"the plugin's outputs: {e}") from e
        if status.log_links:
            links = status.log_links.items() if isinstance(status.log_links, Mapping) else status.log_links
            wire["log_links"] = [_link(link) for link in links]
        if status.custom_info is not None:
            try:
                wire["custom_info"] = encode_struct(status.custom_info)
            except Invalid as e:
                raise SystemError_(f"the plugin's custom_info: {e}") from e
        if status.poll_after is not None and (pause := seconds(status.poll_after)) > 0:
            wire["poll_after_seconds"] = pause
        if status.error is not None:
            error = status.error if isinstance(status.error, BackendError) else self.as_error(status.error, "the job")
            is_users = isinstance(error, UserError)
            wire["error_code"] = _clean(error.reason) or error.code.camel
            wire["error_kind"] = "USER" if is_users else "SYSTEM"
            wire["recoverable"] = not is_users if status.recoverable is None else bool(status.recoverable)
            wire["message"] = wire["message"] or _clean(str(error))
        elif status.recoverable is not None:
            wire["recoverable"] = bool(status.recoverable)
        return wire


class FailedProbe(Exception):
    """A plugin's probe gave False."""


def _clean(text: str) -> str:
    """Text without half characters, which no JSON and no protobuf takes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _link(link: Any) -> Wire:
    if isinstance(link, tuple) and len(link) == 2:  # of a mapping
        link = LogLink(*link)
    if not isinstance(link, LogLink) or not isinstance(link.name, str) or not isinstance(link.uri, str):
        raise SystemError_("the plugin gave a log link that is none; give LogLink(name, uri), or a dict of uris by name")
    return {"name": _clean(link.name), "uri": _clean(link.uri)}


def _rfc3339(when: datetime) -> str:
    text: str = encode(when, {"simple": "DATETIME"})["scalar"]["primitive"]["datetime"]
    return text


def python_outputs(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Python values of a LiteralMap."""
    return decode_literals(outputs.get("literals", {}))


# json.dumps would make one for each value.
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def to_json(value: Any) -> bytes:
    return _encoder.encode(value).encode()


def natural(version: str) -> list[tuple[int, int, str]]:
    """A key that orders versions with the numbers in them as numbers: v10 comes after v9. Only equal texts are equal: v01 and
    v1 are two versions, and which of them is higher must not depend on luck."""
    parts = re.findall(r"[0-9]+|[^0-9]+", version)
    return [*((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts), (-1, 0, version)]
