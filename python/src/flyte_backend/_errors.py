"""The exceptions of the package, and what each is over the wire: the one place for both.

A plugin raises one of them to say what propeller is to do; the client raises the same ones. The tree has a branch for each
class of the contract's error table (docs/contract.md): :class:`UserError`, :class:`SystemError_` and :class:`Retry`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import timedelta
from email.utils import parsedate_to_datetime
from enum import Enum


class Code(str, Enum):
    """A gRPC status code, as it stands in ``error_code``. What becomes of a task depends on the code alone."""

    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    UNAUTHENTICATED = "UNAUTHENTICATED"

    @property
    def number(self) -> int:
        """gRPC's number for it."""
        return _WIRE[self][0]

    @property
    def http_status(self) -> int:
        """The HTTP status that it is answered with."""
        return _WIRE[self][1]

    @property
    def camel(self) -> str:
        """The name that a failed job's error code has, such as ``InvalidArgument``."""
        return "Canceled" if self is Code.CANCELLED else "".join(word.capitalize() for word in self.value.split("_"))


# gRPC's number and the HTTP status of each code: the only table of them.
_WIRE: dict[Code, tuple[int, int]] = {
    Code.CANCELLED: (1, 499),
    Code.UNKNOWN: (2, 500),
    Code.INVALID_ARGUMENT: (3, 400),
    Code.DEADLINE_EXCEEDED: (4, 504),
    Code.NOT_FOUND: (5, 404),
    Code.ALREADY_EXISTS: (6, 409),
    Code.PERMISSION_DENIED: (7, 403),
    Code.RESOURCE_EXHAUSTED: (8, 429),
    Code.FAILED_PRECONDITION: (9, 400),
    Code.ABORTED: (10, 409),
    Code.OUT_OF_RANGE: (11, 400),
    Code.UNIMPLEMENTED: (12, 501),
    Code.INTERNAL: (13, 500),
    Code.UNAVAILABLE: (14, 503),
    Code.DATA_LOSS: (15, 500),
    Code.UNAUTHENTICATED: (16, 401),
}

# What an HTTP status stands for when the answer has no error_code, because it is from something on the way.
_BY_STATUS: dict[int, Code] = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    405: Code.UNIMPLEMENTED,
    408: Code.DEADLINE_EXCEEDED,
    409: Code.ALREADY_EXISTS,
    410: Code.NOT_FOUND,
    412: Code.FAILED_PRECONDITION,
    413: Code.RESOURCE_EXHAUSTED,
    414: Code.INVALID_ARGUMENT,
    415: Code.INVALID_ARGUMENT,
    422: Code.INVALID_ARGUMENT,
    429: Code.RESOURCE_EXHAUSTED,
    431: Code.RESOURCE_EXHAUSTED,
    499: Code.CANCELLED,
    500: Code.INTERNAL,
    501: Code.UNIMPLEMENTED,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


class FlyteBackendError(Exception):
    """Everything that this package raises by itself."""


class BackendError(FlyteBackendError):
    """A call that failed, with a code.

    ``message`` is shown to the task's author, so it holds nothing secret. ``reason`` is a name for programs and for searching,
    such as ``"TableMissing"``: it becomes the error code of a failed job. ``after`` (seconds or a timedelta) asks propeller for
    a pause before it tries again; it waits ten minutes at most.
    """

    code: Code = Code.UNKNOWN

    def __init__(self, message: str = "", *, reason: str = "", after: float | timedelta | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.after = seconds(after)

    def __str__(self) -> str:
        return self.message or self.code.camel


class UserError(BackendError):
    """The task's template or an input is wrong: the task fails for good, as its author's failure."""

    code = Code.INVALID_ARGUMENT


class PermissionDenied(UserError):
    """The task's identity may not do this."""

    code = Code.PERMISSION_DENIED


class FailedPrecondition(UserError):
    """Something that the task needs is not there."""

    code = Code.FAILED_PRECONDITION


class SecretError(FailedPrecondition):
    """A secret is not there, or is not what it should be.

    It fails a task that is being created. Raised about a job, as in poll and delete, it becomes a :class:`SystemError_`, after
    which the call is made again: a job outlives a secret that is away while it is replaced.
    """


class OutOfRange(UserError):
    """A value of the task is out of range."""

    code = Code.OUT_OF_RANGE


class SystemError_(BackendError):
    """The service failed: in create the attempt fails as the system's failure, in poll propeller asks again."""

    code = Code.INTERNAL


class UnknownError(SystemError_):
    """The service failed in a way that it did not foresee; what a plugin raises that is no BackendError becomes one."""

    code = Code.UNKNOWN


class NotFound(SystemError_):
    """There is no such job: in poll the attempt fails, in delete it is success, since the job is gone."""

    code = Code.NOT_FOUND


class AlreadyExists(SystemError_):
    """The idempotency key was used for another request."""

    code = Code.ALREADY_EXISTS


class DataLoss(SystemError_):
    """The service lost the job or its result: the attempt fails, in poll too."""

    code = Code.DATA_LOSS


class Retry(BackendError):
    """Nothing is wrong with the request, and it may succeed later: the task waits and shows why."""

    code = Code.UNAVAILABLE


class Overloaded(Retry):
    """Too many requests, or no capacity."""

    code = Code.RESOURCE_EXHAUSTED


class Conflict(Retry):
    """A conflict inside the service: the same call is made again at once."""

    code = Code.ABORTED


class DeadlineExceeded(Retry):
    """The call took longer than it may."""

    code = Code.DEADLINE_EXCEEDED


class Cancelled(Retry):
    """The call was cancelled on its way."""

    code = Code.CANCELLED


class Unimplemented(Retry):
    """The service or plugin does not serve this call."""

    code = Code.UNIMPLEMENTED


class Unauthenticated(Retry):
    """The service does not accept the caller's credentials."""

    code = Code.UNAUTHENTICATED


class JobFailed(FlyteBackendError):
    """A job that the client waited for ended without success. It is no :class:`BackendError`: the calls went well."""

    def __init__(self, message: str, *, state: str, error_code: str = "", recoverable: bool | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.state = state
        self.error_code = error_code
        self.recoverable = recoverable


class PluginError(FlyteBackendError):
    """A plugin cannot be served as it is written or registered. It stops the service from starting."""


class ConfigurationError(FlyteBackendError):
    """The service cannot start as it is set up."""


_CLASSES: dict[Code, type[BackendError]] = {
    kind.code: kind
    for kind in (
        UserError,
        PermissionDenied,
        FailedPrecondition,
        OutOfRange,
        SystemError_,
        UnknownError,
        NotFound,
        AlreadyExists,
        DataLoss,
        Retry,
        Overloaded,
        Conflict,
        DeadlineExceeded,
        Cancelled,
        Unimplemented,
        Unauthenticated,
    )
}


def error_of(code: Code | str, message: str, *, reason: str = "", after: float | timedelta | None = None) -> BackendError:
    """The exception of a code; one that is not known is an :class:`UnknownError`."""
    try:
        kind = _CLASSES[Code(code)]
    except ValueError:
        kind = UnknownError
    return kind(message, reason=reason, after=after)


def code_of_status(status: int) -> Code:
    """The code that an HTTP status stands for when nothing better is known, as in the answer of a proxy."""
    return _BY_STATUS.get(status, Code.UNKNOWN)


def retry_after(headers: Mapping[str, str]) -> float:
    """The pause that an HTTP answer asks for (RFC 9110, 10.2.3), in seconds; 0 when it asks for none. A date counts from the
    answer's own, so that clocks need not agree. ``headers`` are looked up as ``Retry-After`` and ``Date``."""
    text = headers.get("Retry-After", "")
    try:
        return seconds(float(text))
    except ValueError:
        pass
    try:
        now = parsedate_to_datetime(headers["Date"]).timestamp() if "Date" in headers else time.time()
        return seconds(parsedate_to_datetime(text).timestamp() - now)
    except (TypeError, ValueError):
        return 0.0


def seconds(after: float | timedelta | None) -> float:
    """A pause in seconds; 0 for none, and for what is no pause."""
    value = after.total_seconds() if isinstance(after, timedelta) else float(after or 0)
    return value if math.isfinite(value) and value > 0 else 0.0
