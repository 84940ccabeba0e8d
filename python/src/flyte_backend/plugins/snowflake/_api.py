"""Snowflake's SQL API, version 2: https://docs.snowflake.com/en/developer-guide/sql-api/reference

It is called directly and not by Snowflake's Python connector, because its requestId makes one statement of many requests, and
because it needs no session: any replica finds a statement by its handle, and no call waits for a login.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from ..._errors import BackendError, NotFound, Overloaded, Retry, SystemError_, retry_after
from ..._metrics import package_version
from ..._secrets import Secrets
from ._account import Accounts
from ._auth import Credentials

# A poll of many asks for some at once; calls that come one by one share the rest.
MAX_CONNECTIONS = 64
# In seconds. Propeller waits ten for a call, where nobody says otherwise.
CONNECT_TIMEOUT, TIMEOUT = 4.0, 8.0
KEEP_ALIVE = 120.0
# Where Snowflake asks for a pause without saying how long.
PAUSE = 10.0
# An answer about a statement that succeeded has the first rows of its result, up to 10 MB, which nobody here reads.
MAX_ANSWER = 256 << 10

_HANDLE = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass(frozen=True)
class Answer:
    """What the API answered. ``body`` is empty where it was no JSON object or too large."""

    status: int
    body: Mapping[str, Any] = field(default_factory=dict)
    #: The pause that it asks for, in seconds; 0 for none.
    retry_after: float = 0.0

    def text(self, name: str) -> str:
        value = self.body.get(name)
        return value if isinstance(value, str) else ""

    @property
    def code(self) -> str:
        """Snowflake's code, such as 000904."""
        return self.text("code")

    @property
    def handle(self) -> str:
        """The statement's handle; empty where there is none that could be asked for."""
        handle = self.text("statementHandle")
        return handle if _HANDLE.fullmatch(handle) else ""

    @property
    def last_handle(self) -> str:
        """Of a request of several statements, the last one's handle: it is the one that has the result."""
        handles = self.body.get("statementHandles")
        last = handles[-1] if isinstance(handles, list) and handles else ""
        return last if isinstance(last, str) and _HANDLE.fullmatch(last) else ""


class SqlApi:
    """A client of the API, for all accounts. Calls are made at once, any number of times, in one event loop.

    What it raises is what keeps it from an answer: :class:`Retry` for a network that fails, and what accounts and credentials
    raise. Any HTTP status is an :class:`Answer`.
    """

    def __init__(self, accounts: Accounts) -> None:
        self.accounts = accounts
        self._credentials = Credentials()
        # Redirects are not followed: they could lead a token to another host. SSL_CERT_FILE and proxies are as httpx has them.
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(TIMEOUT, connect=CONNECT_TIMEOUT),
            limits=httpx.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=KEEP_ALIVE),
            headers={"Accept": "application/json", "User-Agent": f"flyte-backend/{package_version()}"},
            follow_redirects=False,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def submit(self, secrets: Secrets, account: str, user: str, request_id: str, body: Mapping[str, Any]) -> Answer:
        """Start a statement. The same ``request_id`` again starts no second one, whoever asks.

        That is so only with ``retry=true``, and whether this is a repetition nobody can tell here, as another replica may have
        made the first call; so it is always said, though it makes Snowflake look through the history of statements.
        """
        params = {"requestId": request_id, "async": "true", "retry": "true"}
        return await self._request("POST", "", secrets, account, user, params=params, body=body)

    async def look(self, secrets: Secrets, account: str, user: str, handle: str) -> Answer:
        """The state of a statement."""
        return await self._request("GET", _path(handle), secrets, account, user)

    async def cancel(self, secrets: Secrets, account: str, user: str, handle: str) -> Answer:
        """End a statement."""
        return await self._request("POST", f"{_path(handle)}/cancel", secrets, account, user)

    async def _request(
        self,
        method: str,
        path: str,
        secrets: Secrets,
        account: str,
        user: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Answer:
        url = f"{self.accounts.url(account)}/api/v2/statements{path}"
        answer = await self._once(method, url, secrets, account, user, params, body)
        # The key may have been replaced, or the clock set, since the token was signed.
        if answer.status == 401 and self._credentials.forget(account, user):
            answer = await self._once(method, url, secrets, account, user, params, body)
        return answer

    async def _once(
        self,
        method: str,
        url: str,
        secrets: Secrets,
        account: str,
        user: str,
        params: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
    ) -> Answer:
        headers = self._credentials.headers(secrets, account, user)
        try:
            async with self._client.stream(method, url, params=params, json=body, headers=headers) as response:
                return await _read(response)
        except httpx.TimeoutException as e:
            raise Retry(f"Snowflake does not answer in time ({type(e).__name__})") from e
        except httpx.HTTPError as e:
            # The text of the others may show headers.
            why = f": {e}" if isinstance(e, httpx.ConnectError) else ""
            raise Retry(f"Snowflake cannot be reached ({type(e).__name__}){why}") from e


def _path(handle: str) -> str:
    if not _HANDLE.fullmatch(handle):  # job ids come from outside
        raise NotFound("no such statement: its handle is none of Snowflake's")
    return f"/{handle}"


async def _read(response: httpx.Response) -> Answer:
    after = retry_after(response.headers)
    raw = bytearray()
    async for part in response.aiter_bytes():
        raw += part
        if len(raw) > MAX_ANSWER:
            return Answer(response.status_code, {}, after)
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    return Answer(response.status_code, body if isinstance(body, dict) else {}, after)


def failed_call(answer: Answer) -> BackendError | None:
    """The error of an answer that says nothing of a statement, but of the call; None for any other.

    Of credentials that are refused it says so without a judgement: that depends on whether a job runs already.
    """
    said = f"{answer.code} {answer.text('message')}".strip()
    what = f": {said}" if said else ""
    match answer.status:
        case 200 | 202 | 408 | 422:
            return None
        case 429:
            return Overloaded(f"Snowflake has too many requests{what}", after=answer.retry_after or PAUSE)
        case status if status >= 500:
            return Retry(f"Snowflake has an error of its own (HTTP {status}){what}", after=answer.retry_after)
        case status:
            return SystemError_(f"Snowflake does not take the call (HTTP {status}){what}")
