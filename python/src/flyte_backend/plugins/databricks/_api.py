"""The Jobs API of one instance, by HTTP, and what its errors mean.

Its contract is https://docs.databricks.com/api/workspace/jobs, version 2.1 as in flytekit's connector.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx

from ..._errors import (
    AlreadyExists,
    BackendError,
    Conflict,
    DeadlineExceeded,
    NotFound,
    Overloaded,
    PermissionDenied,
    Retry,
    SystemError_,
    Unauthenticated,
    UserError,
    retry_after,
)
from ..._metrics import package_version
from ..._secrets import Secrets
from ._auth import Tokens
from ._settings import Login, Settings

API = "/api/2.1/jobs/runs/"

# An answer is due within this, in seconds; a call of the service has 30.
_TIMEOUT = httpx.Timeout(10.0, connect=5.0)
_LIMITS = httpx.Limits(max_connections=64, max_keepalive_connections=32, keepalive_expiry=30)

# The vendor says it with 400 and INVALID_PARAMETER_VALUE as well; its own clients look at the words.
_NO_RUN = re.compile(r"Run .* does not exist|Run: .* doesn't exist", re.IGNORECASE)
# A token that is wrong or has ended may be answered with 403, in these words.
_NO_TOKEN = re.compile(r"invalid access token|token (is |has )?expired|invalid token|credential was not sent", re.IGNORECASE)
_MESSAGE = 1000


class Workspace:
    """An instance. It belongs to one event loop, and may be called any number of times at once."""

    def __init__(self, instance: str, settings: Settings) -> None:
        self.instance = instance
        self._http = httpx.AsyncClient(
            base_url=f"https://{instance}",
            timeout=_TIMEOUT,
            limits=_LIMITS,
            headers={"User-Agent": f"flyte-backend/{package_version()}"},
            follow_redirects=False,  # the token is for this host alone
        )
        self._tokens = Tokens(self._http, settings)

    async def close(self) -> None:
        await self._http.aclose()

    def check(self, secrets: Secrets) -> None:
        """Raises :class:`SecretError` when the service has nothing to log in with. It asks nobody."""
        self._tokens.form(Login(), secrets)

    async def get(self, call: str, login: Login, secrets: Secrets, **query: Any) -> dict[str, Any]:
        """Ask, such as ``get("list", login, secrets, limit=3)``. Raises a :class:`BackendError` that fits a poll."""
        params = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in query.items()}
        return await self._call("GET", call, login, secrets, params=params)

    async def post(
        self, call: str, login: Login, secrets: Secrets, body: Mapping[str, Any], *, creates: bool = False, once: bool = False
    ) -> dict[str, Any]:
        """Do. ``creates`` blames the task for what is wrong with the request, and ``once`` is for what must not be repeated."""
        return await self._call("POST", call, login, secrets, creates=creates, once=once, json=body)

    async def _call(
        self, method: str, call: str, login: Login, secrets: Secrets, *, creates: bool = False, once: bool = False, **more: Any
    ) -> dict[str, Any]:
        token = await self._tokens.get(login, secrets)
        response = await self._send(method, call, token, once, **more)
        if response.status_code == 401 and self._tokens.drop(token):
            token = await self._tokens.get(login, secrets)
            response = await self._send(method, call, token, once, **more)
        if response.status_code != 200:
            raise error_of(response, self.instance, creates=creates)
        try:
            answer = response.json() if response.content else {}
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise Retry(f"{self.instance} answered runs/{call} with what is no JSON object; is it a Databricks instance?")
        return answer

    async def _send(self, method: str, call: str, token: str, once: bool, **more: Any) -> httpx.Response:
        """One request, and a second one when the connection broke: most often the server had closed it while it was idle."""
        for is_last in (once, True):
            try:
                return await self._http.request(method, API + call, headers={"Authorization": f"Bearer {token}"}, **more)
            except httpx.TimeoutException as e:
                raise DeadlineExceeded(f"{self.instance} did not answer runs/{call} in time ({type(e).__name__})") from e
            except (ValueError, TypeError) as e:
                raise UserError(f"the task's databricks_conf cannot be sent as JSON: {e}") from e
            except httpx.HTTPError as e:
                if is_last:
                    raise Retry(f"{self.instance} cannot be reached ({type(e).__name__}: {e})") from e
        raise AssertionError("the last try returns or raises")


def error_of(response: httpx.Response, instance: str, *, creates: bool) -> BackendError:
    """The exception that says what an error is: on create the task may be to blame, later only its run or the service.

    A poll that is answered with a user error would end the task, and none of them says that its run has ended.
    """
    try:
        answer = response.json()
        code, message = str(answer.get("error_code", "")), str(answer.get("message", ""))
    except (ValueError, AttributeError):
        code = message = ""
    status = response.status_code
    told = f"{instance}: {code or status}: {message or response.reason_phrase}"[:_MESSAGE]
    more: dict[str, Any] = {"reason": code if code.isidentifier() else "", "after": retry_after(response.headers)}
    if status == 429 or code in ("REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"):
        return Overloaded(told, **more)
    if code == "RESOURCE_DOES_NOT_EXIST" or _NO_RUN.search(message):
        if creates:
            told += " (the run of this attempt was deleted, or something that the task names is not there)"
        return NotFound(told, **more)
    if status == 401 or status == 403 and _NO_TOKEN.search(message):
        return Unauthenticated(told, **more)
    if 300 <= status < 400:
        return SystemError_(f"{instance} answers with a redirect ({status}); is it the host of a workspace?")
    if status >= 500 or not code and status != 403:
        return Retry(told, **more)  # without a code it is from something on the way
    if code == "RESOURCE_ALREADY_EXISTS":
        return AlreadyExists(told, **more)
    if status == 409:
        return Conflict(told, **more)
    if not creates or status == 404:  # no such endpoint
        return SystemError_(told, **more)
    return PermissionDenied(told, **more) if status == 403 else UserError(told, **more)
