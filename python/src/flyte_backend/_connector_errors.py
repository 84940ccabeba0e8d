"""What becomes of the exceptions of flytekit's connectors.

A connector knows nothing of the contract's error table, so what it raises is looked at: flytekit's own exceptions, and those
of vendors' clients by what they all have in some form, an HTTP status or a gRPC code. When a job is polled, an answer of the
vendor ends it only by saying that it is gone; after any other it is asked again.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from ._errors import (
    BackendError,
    Code,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    Overloaded,
    PermissionDenied,
    Retry,
    SystemError_,
    Unimplemented,
    UnknownError,
    UserError,
    code_of_status,
)

#: Methods that begin something; the others are about a job.
BEGINNING = ("create", "do")

MAX_MESSAGE = 1000

# How clients call it that there is no such thing; what else is called so is about the service's own machine.
_NOT_FOUND = re.compile(r"([A-Z][a-z]+)?(NotFound|DoesNotExist)(Error|Exception)?")
_NOT_THE_VENDORS = {"FileNotFoundError", "ModuleNotFoundError"}

# How clients call it that nobody could be reached.
_UNREACHABLE = {
    "APIConnectionError",
    "ClientConnectionError",
    "ConnectionError",
    "ServerTimeoutError",
    "Timeout",
    "TransportError",
}


def error_of_connector(e: Exception, method: str) -> BackendError:
    """The error that a call ends with, when the connector's method raised ``e``. Its message has no traceback."""
    kind = _kind(e, method)
    text = f"{type(e).__name__}: {_text(e)}".removesuffix(": ")
    return kind(text)


def _kind(e: Exception, method: str) -> type[BackendError]:
    from flytekit.exceptions import base, system, user

    begins = method in BEGINNING
    match e:
        case NotImplementedError() if method in ("get_logs", "get_metrics"):
            return Unimplemented
        case user.FlyteEntityNotExistException() | user.FlyteEntityNotFoundException():
            return FailedPrecondition if begins else NotFound
        case system.FlyteConnectorNotFound() | system.FlyteAgentNotFound():
            return NotFound
        case system.FlyteSystemUnavailableException():
            return Retry
        case user.FlyteTimeout():
            return DeadlineExceeded
        case user.FlyteAuthenticationException():
            return PermissionDenied
        case base.FlyteRecoverableException():
            return SystemError_
        case user.FlyteUserException() | user.FlyteUserRuntimeException():
            return UserError
        case base.FlyteException():
            return SystemError_
        case ConnectionError() | TimeoutError() | asyncio.TimeoutError():
            return Retry
    code = _code(e)
    if code is None:
        names = {kind.__name__ for kind in type(e).__mro__}
        if names & _UNREACHABLE:
            return Retry
        if not names & _NOT_THE_VENDORS and any(_NOT_FOUND.fullmatch(name) for name in names):
            code = Code.NOT_FOUND
    match code:
        case Code.NOT_FOUND:
            return FailedPrecondition if begins else NotFound
        case Code.RESOURCE_EXHAUSTED:
            return Overloaded
        case Code.UNAVAILABLE | Code.DEADLINE_EXCEEDED | Code.ABORTED:
            return Retry
        case Code.INVALID_ARGUMENT | Code.OUT_OF_RANGE if begins:
            return UserError
        case Code.FAILED_PRECONDITION if begins:
            return FailedPrecondition
        case Code.PERMISSION_DENIED if begins:
            return PermissionDenied
        case _:
            return UnknownError


def _code(e: Exception) -> Code | None:
    """What the vendor answered, as a gRPC code."""
    given = getattr(e, "grpc_status_code", None) or getattr(e, "code", None)
    if callable(given):  # grpc's own
        try:
            given = given()
        except TypeError:
            return None
    name = str(getattr(given, "name", ""))
    if not isinstance(given, int) and name in Code.__members__:
        return Code[name]
    response = getattr(e, "response", None)
    if isinstance(response, dict):  # botocore's
        response_status: Any = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        response_status = getattr(response, "status_code", None) or getattr(response, "status", None)
    for status in (given, getattr(e, "status_code", None), getattr(e, "status", None), response_status):
        if isinstance(status, int) and 400 <= status < 600:
            return code_of_status(status)
    return None


def _text(e: Exception) -> str:
    """What it says, without the traceback that some clients and flytekit's own wrappers put into it."""
    from flytekit.exceptions.base import FlyteException

    whole = ", ".join(map(str, e.args)) if isinstance(e, FlyteException) and e.args else str(e)
    text = re.split(r"Traceback \(most recent call last\)|\n\s+File \"", whole, maxsplit=1)[0].strip()
    return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + "…"
