"""What Snowflake says of a statement, as the states and errors of a job."""

from __future__ import annotations

from ..._errors import BackendError, FailedPrecondition, NotFound, PermissionDenied, SystemError_, UserError
from ._api import Answer

# https://docs.snowflake.com/en/developer-guide/sql-api/reference has these two.
CANCELED, NO_SUCH_STATEMENT = "000604", "000709"
# The statement or warehouse reached its time limit.
TIMED_OUT = "000630"

# The rest of a failed statement's codes has no list of the vendor's, so its SQLSTATE decides: these classes are failures of the
# system by ISO 9075 and by PostgreSQL, whose states Snowflake's resemble (connection, rollback by a conflict, resources, the
# operator, the machine, internal). The others are the author's: syntax, names, rights, data.
_SYSTEM_CLASSES = ("08", "40", "53", "57", "58", "XX")
# Against the rule of their class.
_USER_STATES = {"57P03": "no warehouse"}
_DENIED_STATES = ("28000", "42501")


def error_of_statement(answer: Answer) -> BackendError:
    """Why a statement failed (HTTP 422), or was ended for taking too long (408)."""
    code, state = answer.code, answer.text("sqlState")
    text = answer.text("message") or f"Snowflake gave no reason (HTTP {answer.status})"
    message = f"{code}: {text}" if code else text
    if answer.status == 408 or code == TIMED_OUT:
        return UserError(message, reason="StatementTimeout")
    if code == NO_SUCH_STATEMENT:
        return NotFound(message)
    reason = f"Snowflake{code}" if code.isalnum() else ""
    if code == CANCELED:
        return SystemError_(message, reason=reason)
    if state in _USER_STATES:
        return FailedPrecondition(message, reason=reason)
    if state in _DENIED_STATES:
        return PermissionDenied(message, reason=reason)
    if state.startswith(_SYSTEM_CLASSES):
        return SystemError_(message, reason=reason)
    return UserError(message, reason=reason)


def is_timeout(error: BackendError) -> bool:
    """It may go better the next time, so that the author's retries apply."""
    return error.reason == "StatementTimeout"


def refused(answer: Answer, account: str, user: str) -> BackendError | None:
    """The error of a create that Snowflake refuses for what the template says; None for any other answer."""
    said = f"{answer.code} {answer.text('message')}".strip() or f"HTTP {answer.status}"
    match answer.status:
        case 400:
            return UserError(f"Snowflake does not take the request: {said}")
        case 401 | 403:
            return PermissionDenied(f"Snowflake does not let user {user} of account {account} in: {said}")
        case 404:
            return FailedPrecondition(f"Snowflake does not know account {account}: {said}")
        case _:
            return None
