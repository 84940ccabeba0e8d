"""What an author of a plugin works with: the base class, the task, and the state of a job."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from ._errors import BackendError, ConfigurationError, UserError
from ._protojson import Invalid
from ._secrets import Secrets
from ._values import Literals, decode_literals, wholes

if TYPE_CHECKING:
    Logger = logging.Logger | logging.LoggerAdapter[logging.Logger]
else:  # Python 3.10 cannot subscript it
    Logger = logging.Logger | logging.LoggerAdapter


class BackendPluginBase:
    """A plugin: a task type that runs somewhere.

    A subclass has three methods, ``async`` or plain (plain ones run in threads, so they may block)::

        async def create(self, task: TaskInfo) -> str: ...     # start a job, give its id
        async def poll(self, job_id: str) -> JobStatus: ...    # tell its state
        async def delete(self, job_id: str) -> None: ...       # end it

    or ``execute(self, task) -> JobStatus`` for tasks that are one call, or all four. A method takes what it names; the guide
    (docs/write-a-plugin.md) lists the names. All of them are called at once, any number of times, in any replica of the
    service: what finds a job again is in its id. Optional are ``poll_many``, ``watch``, ``logs``, ``metrics``, ``configure``,
    ``probe`` and ``close``.
    """

    task_type: str = ""
    version: str = "v1"
    name: str = ""
    task_type_versions: Sequence[int] = ()
    outputs: Any = None
    #: Where its code is, for messages about it; empty means its class.
    defined_in: str = ""
    #: What people should know that it runs on, by name, such as a library's version: told when it is served.
    runs_on: Mapping[str, str] = {}

    def __init__(
        self,
        task_type: str = "",
        version: str = "",
        *,
        name: str = "",
        task_type_versions: Sequence[int] = (),
        outputs: Any = None,
    ) -> None:
        """Each of them may be an attribute of the class instead.

        ``task_type`` is the task type of the templates that it takes. ``version`` is the plugin's own: several can be served
        side by side, new tasks get the highest, and a task stays with the one that it began with. ``task_type_versions`` limits
        it to templates of these; none means any. ``name`` is for people. ``outputs`` tells the types of a job's outputs, as a
        dataclass, model, TypedDict, or mapping of names to types; without it, the values tell them.
        """
        self.task_type = task_type or self.task_type
        self.version = version or self.version
        self.name = name or self.name or self.task_type
        self.task_type_versions = tuple(task_type_versions or self.task_type_versions)
        self.outputs = self.outputs if outputs is None else outputs

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__qualname__} {self.task_type} {self.version}>"


class SyncPlugin(BackendPluginBase):
    """A plugin whose tasks are one call: ``execute(self, task)`` gives a final :class:`JobStatus`, or the outputs."""


class TaskMessages(NamedTuple):
    """A task as flyteidl's own messages."""

    #: flyteidl.core.TaskTemplate
    template: Any
    #: flyteidl.core.LiteralMap
    inputs: Any
    #: flyteidl.admin.TaskExecutionMetadata
    metadata: Any


class TaskInfo:
    """A task to run."""

    def __init__(
        self,
        template: Mapping[str, Any],
        *,
        literals: Mapping[str, Any] | None = None,
        output_prefix: str = "",
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str = "",
        plugin_version: str = "",
        max_output_bytes: int = 0,
        secrets: Secrets | None = None,
        log: Logger | None = None,
        messages: TaskMessages | None = None,
    ) -> None:
        self._messages = messages
        #: The task as it was registered: flyteidl's TaskTemplate in protobuf's JSON form.
        self.template = template
        #: The inputs as they came: flyteidl's Literals in protobuf's JSON form, by name.
        self.literals = Literals(literals or {})
        #: Where the job may write outputs.pb or error.pb instead of giving outputs, such as s3://bucket/metadata/x/0.
        self.output_prefix = output_prefix
        #: The execution's identity, labels, service account and more: flyteidl's TaskExecutionMetadata in protobuf's JSON form.
        self.metadata = metadata or {}
        #: The same for every call about one attempt of a task, and for no other; empty when the caller sends none.
        self.idempotency_key = idempotency_key
        #: The version that the caller asked for; empty when it did not.
        self.plugin_version = plugin_version
        #: Bounds the outputs of a synchronous task; 0 means unbounded.
        self.max_output_bytes = max_output_bytes
        #: Reads secrets.
        self.secrets = secrets or Secrets()
        #: For what operators are to know. Nothing secret goes there.
        self.log = log or logging.getLogger("flyte_backend")

    @property
    def task_type(self) -> str:
        return str(self.template.get("type", ""))

    @property
    def name(self) -> str:
        """The name that the task was registered with."""
        return str(self.template.get("id", {}).get("name", ""))

    @functools.cached_property
    def inputs(self) -> dict[str, Any]:
        """The inputs as Python values. Raises :class:`UserError` for one that cannot be read."""
        try:
            return decode_literals(self.literals)
        except Invalid as e:
            raise UserError(f"the task's inputs: {e}") from e

    @functools.cached_property
    def messages(self) -> TaskMessages:
        """The task as flyteidl's messages: over gRPC those that came, over REST made of the JSON. They need flyteidl, which the
        extras ``grpc`` and ``flytekit`` bring. Raises :class:`UserError` for a task that no message can hold."""
        if self._messages is not None:
            return self._messages
        from flyteidl.admin import agent_pb2
        from flyteidl.core import literals_pb2, tasks_pb2
        from google.protobuf import json_format

        def read(value: Mapping[str, Any], into: Any) -> Any:
            try:
                return json_format.ParseDict(dict(value), into, ignore_unknown_fields=True)
            except (json_format.Error, ValueError, TypeError, RecursionError) as e:
                raise UserError(f"the task cannot be read: {str(e)[:500]}") from None

        return TaskMessages(
            read(self.template, tasks_pb2.TaskTemplate()),
            read({"literals": self.literals}, literals_pb2.LiteralMap()),
            read(self.metadata, agent_pb2.TaskExecutionMetadata()),
        )

    def as_flytekit(self, types: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The inputs as flytekit's own values, such as a FlyteFile, a DataFrame, or a dataclass: ``types`` are Python types by
        name, and those that are not there are what the task's interface suggests. It may read files and tables, so it blocks.

        Raises :class:`ConfigurationError` without the extra ``flytekit``, and :class:`UserError` for what does not fit.
        """
        try:
            from flytekit import FlyteContextManager
            from flytekit.core.type_engine import TypeEngine
            from flytekit.models.interface import VariableMap
            from flytekit.models.literals import LiteralMap
        except ModuleNotFoundError as e:
            raise ConfigurationError("flytekit's values need the extra: pip install 'flyte-backend[flytekit]'") from e
        variables = VariableMap.from_flyte_idl(self.messages.template.interface.inputs).variables
        found = {}
        for name, literal in LiteralMap.from_flyte_idl(self.messages.inputs).literals.items():
            try:
                of = (types or {}).get(name) or TypeEngine.guess_python_type(variables[name].type)
                found[name] = TypeEngine.to_python_value(FlyteContextManager.current_context(), literal, of)
            except Exception as e:  # its converters raise anything
                raise UserError(f"input {name!r} cannot be read by flytekit: {type(e).__name__}: {str(e)[:500]}") from e
        return found

    @functools.cached_property
    def custom(self) -> dict[str, Any]:
        """The template's custom, where flytekit's task types have their configuration."""
        custom: dict[str, Any] = wholes(self.template.get("custom", {}))
        return custom


class JobState(str, Enum):
    """How far a job is."""

    QUEUED = "QUEUED"
    WAITING_FOR_RESOURCES = "WAITING_FOR_RESOURCES"
    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    RETRYABLE_FAILED = "RETRYABLE_FAILED"
    ABORTED = "ABORTED"

    @property
    def is_final(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.RETRYABLE_FAILED, JobState.ABORTED)


@dataclass(frozen=True)
class LogLink:
    """Leads people to a job's log."""

    name: str
    uri: str


LogLinks = Sequence[LogLink] | Mapping[str, str]


@dataclass(frozen=True)
class JobStatus:
    """The state of a job. The functions :func:`running`, :func:`succeeded`, :func:`failed` and so on make it."""

    state: JobState
    #: Tells people how far it is, or why it failed. It may change while the state does not.
    message: str = ""
    #: Of a job that succeeded, by name; None when the job has written them at the output prefix.
    outputs: Any = None
    #: Why a job failed. A UserError fails the task for good; after any other it may be tried again.
    error: BaseException | None = None
    #: Overrules what the error says of another attempt.
    recoverable: bool | None = None
    #: Shown beside the task: links by name.
    log_links: LogLinks = ()
    #: Shown beside the task: a dict, dataclass or model.
    custom_info: Any = None
    #: How long nothing new is to be expected, in seconds or as a timedelta: propeller asks no sooner, unless it is over ten
    #: minutes.
    poll_after: float | timedelta | None = None


def queued(
    message: str = "", *, log_links: LogLinks = (), custom_info: Any = None, poll_after: float | timedelta | None = None
) -> JobStatus:
    """The job waits for its turn."""
    return JobStatus(JobState.QUEUED, message, log_links=log_links, custom_info=custom_info, poll_after=poll_after)


def waiting(
    message: str = "", *, log_links: LogLinks = (), custom_info: Any = None, poll_after: float | timedelta | None = None
) -> JobStatus:
    """The job waits for machines."""
    state = JobState.WAITING_FOR_RESOURCES
    return JobStatus(state, message, log_links=log_links, custom_info=custom_info, poll_after=poll_after)


def initializing(
    message: str = "", *, log_links: LogLinks = (), custom_info: Any = None, poll_after: float | timedelta | None = None
) -> JobStatus:
    """The job is being prepared."""
    return JobStatus(JobState.INITIALIZING, message, log_links=log_links, custom_info=custom_info, poll_after=poll_after)


def running(
    message: str = "", *, log_links: LogLinks = (), custom_info: Any = None, poll_after: float | timedelta | None = None
) -> JobStatus:
    """The job runs."""
    return JobStatus(JobState.RUNNING, message, log_links=log_links, custom_info=custom_info, poll_after=poll_after)


def succeeded(outputs: Any = None, *, message: str = "", log_links: LogLinks = (), custom_info: Any = None) -> JobStatus:
    """The job ended well. Outputs are a dict by name, a dataclass or a model; None when it has written them itself."""
    return JobStatus(JobState.SUCCEEDED, message, outputs=outputs, log_links=log_links, custom_info=custom_info)


def failed(
    error: BackendError | Exception | str,
    *,
    message: str = "",
    recoverable: bool | None = None,
    log_links: LogLinks = (),
    custom_info: Any = None,
) -> JobStatus:
    """The job failed. Text is a :class:`UserError`: the task fails for good. For another kind, give that exception."""
    cause = UserError(error) if isinstance(error, str) else error
    return JobStatus(
        JobState.FAILED, message, error=cause, recoverable=recoverable, log_links=log_links, custom_info=custom_info
    )


def aborted(message: str = "", *, log_links: LogLinks = (), custom_info: Any = None) -> JobStatus:
    """Somebody ended the job."""
    return JobStatus(JobState.ABORTED, message, log_links=log_links, custom_info=custom_info)


@dataclass(frozen=True)
class JobRef:
    """A job of ``poll_many``."""

    job_id: Any
    output_prefix: str = ""


@dataclass(frozen=True)
class LogLine:
    """A line of a job's log. ``system`` tells that the service wrote it, not the task's own code."""

    message: str
    time: datetime | None = None
    system: bool = False


@dataclass(frozen=True)
class LogPage:
    """A page of a job's log. ``next`` is the token of the next one; empty when there is none."""

    lines: Sequence[LogLine | str] = ()
    next: str = ""


@dataclass(frozen=True)
class Metric:
    """A metric of a job, its data in the form of Prometheus's range query."""

    name: str
    data: Any = None
