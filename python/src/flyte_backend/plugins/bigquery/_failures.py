"""What BigQuery's errors mean for a task: those of jobs, by their reason, and those of calls.

The reasons are those of https://cloud.google.com/bigquery/docs/error-messages.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import requests
from google.api_core.exceptions import GoogleAPICallError
from google.auth import exceptions as auth

from ..._errors import (
    BackendError,
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    Overloaded,
    PermissionDenied,
    Retry,
    SystemError_,
    Unauthenticated,
    UserError,
    retry_after,
)

STOPPED = "stopped"

# The same statement fails again until somebody changes it, or a right, or a limit.
_USERS: dict[str, type[UserError]] = {
    "accessDenied": PermissionDenied,
    "attributeError": UserError,
    "billingNotEnabled": FailedPrecondition,
    "billingTierLimitExceeded": UserError,
    "blocked": PermissionDenied,
    "bytesBilledLimitExceeded": UserError,
    "duplicate": FailedPrecondition,
    "invalid": UserError,
    "invalidQuery": UserError,
    "invalidUser": PermissionDenied,
    "notFound": FailedPrecondition,
    "notImplemented": UserError,
    "policyViolation": PermissionDenied,
    "resourceInUse": FailedPrecondition,
    "resourcesExceeded": UserError,
    "responseTooLarge": UserError,
    "timeout": UserError,
}
# It may go well another time: after seconds, or as long as quotas of a day and of a project last.
_BUSY = {
    "rateLimitExceeded": 0.0,
    "userRateLimitExceeded": 0.0,
    "jobRateLimitExceeded": 0.0,
    "concurrentLimitExceeded": 0.0,
    "quotaExceeded": 60.0,
    "dailyLimitExceeded": 60.0,
}
_PASSING = {"backendError", "internalError", "jobBackendError", "jobInternalError", "badGateway", "tableUnavailable"}

LONGEST = 4000  # characters of a message


def job_error(result: Mapping[str, Any]) -> BackendError:
    """Why a job failed (``errorResult``). The task may be tried again unless it is a :class:`UserError`, also when the
    reason is not known."""
    reason = str(result.get("reason") or "unknown")
    message = str(result.get("message") or f"BigQuery tells no more than {reason}")[:LONGEST]
    if place := result.get("location"):
        message += f" (at {place})"
    return _USERS.get(reason, SystemError_)(message, reason=reason)


@contextlib.contextmanager
def calling(what: str, *, creates: bool = False) -> Iterator[None]:
    """Turns the errors of calls to Google into those that propeller knows. ``what`` says what was being done.

    Only a create raises a :class:`UserError`. About a job that there is, one would end its task, though the job goes on.
    """
    try:
        yield
    except GoogleAPICallError as e:
        error = _of_api(e, what, creates)
        if isinstance(error, UserError) and not creates:
            error = SystemError_(error.message, reason=error.reason)
        raise error from e
    except auth.RefreshError as e:
        if e.retryable:
            raise Retry(f"{what}: Google gives no access token just now") from e
        raise Unauthenticated(f"{what}: Google gives no access token for the credentials ({_refused(e)})") from e
    except auth.DefaultCredentialsError as e:
        raise Unauthenticated(
            f"{what}: the service has no credentials; it needs application default credentials, or a secret that the task names"
        ) from e
    except (auth.TransportError, requests.RequestException) as e:
        cause = DeadlineExceeded if isinstance(e, requests.Timeout) else Retry
        raise cause(f"{what}: Google does not answer ({type(e).__name__})") from e


def _refused(e: auth.RefreshError) -> str:
    """OAuth's name for it, such as invalid_grant. The rest may hold anything."""
    name = str(e.args[0]).partition(":")[0].strip() if e.args else ""
    return name if name.isidentifier() else type(e).__name__


def _of_api(e: GoogleAPICallError, what: str, creates: bool) -> BackendError:
    first = e.errors[0] if e.errors and isinstance(e.errors[0], Mapping) else {}
    reason = str(first.get("reason", ""))
    status = int(e.code or 0)
    message = f"{what}: {str(first.get('message') or e.message or f'BigQuery answered {status}')[:LONGEST]}"
    if reason in _BUSY or status == 429:
        return Overloaded(
            message, reason=reason, after=retry_after(getattr(e.response, "headers", None) or {}) or _BUSY.get(reason, 0.0)
        )
    if status == 401:
        return Unauthenticated(message, reason=reason)
    if status == 404 and not creates:
        return NotFound(message, reason=reason)
    if status in (408, 504):
        return DeadlineExceeded(message, reason=reason)
    if reason in _PASSING or status >= 500 and reason != "notImplemented":
        return Retry(message, reason=reason, after=retry_after(getattr(e.response, "headers", None) or {}))
    if reason in _USERS:
        return _USERS[reason](message, reason=reason)
    if status == 403:
        return PermissionDenied(message, reason=reason)
    if status == 409:
        return Conflict(message, reason=reason)
    if status in (404, 412):
        return FailedPrecondition(message, reason=reason)
    if 400 <= status < 500:
        return UserError(message, reason=reason)
    return SystemError_(message, reason=reason)
