"""Bearer tokens: personal access tokens as secrets, and OAuth of service principals.

The vendor's Python client is not used. In databricks-sdk 0.156 a token is fetched without any time limit and under a lock that
all callers share; an answer with ``Retry-After`` makes its thread sleep for as long as the server says, whatever its own limit
is; it takes settings from DATABRICKS_* and ~/.databrickscfg besides those it is given, and puts them into error messages.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from ..._errors import Retry, SecretError, Unauthenticated
from ..._secrets import Secrets
from ._settings import OAUTH_M2M, PAT, TOKEN_SECRET, Login, Settings

# A token is not used in its last seconds, but for half of its life at least.
_SPARE = 60.0
_TOKENS_KEPT = 256


@dataclass
class _Kept:
    token: str = ""
    until: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Tokens:
    """The tokens of one instance. Those of OAuth are kept until shortly before they end, in memory only."""

    def __init__(self, http: httpx.AsyncClient, settings: Settings) -> None:
        self._http = http
        self._settings = settings
        self._kept: dict[str, _Kept] = {}

    async def get(self, login: Login, secrets: Secrets) -> str:
        """A token that is good now. Secrets are read anew, so that one that was rotated is seen.

        Raises :class:`SecretError` when a secret is not there, and :class:`Unauthenticated` when it is not accepted.
        """
        form = self.form(login, secrets)
        if isinstance(form, str):
            return form
        # A digest, since the key should not hold the secret for longer than the call.
        key = hashlib.sha256(repr(sorted(form.items())).encode()).hexdigest()
        if key not in self._kept and len(self._kept) >= _TOKENS_KEPT:
            self._kept.pop(next(iter(self._kept)))
        kept = self._kept.setdefault(key, _Kept())
        async with kept.lock:
            if not kept.token or time.monotonic() >= kept.until:
                kept.token, life = await self._fetch(form)
                kept.until = time.monotonic() + max(life - _SPARE, life / 2)
            return kept.token

    def form(self, login: Login, secrets: Secrets) -> str | dict[str, str]:
        """A token that is a secret itself, or the form that a token is asked for with. It asks nobody.

        Raises :class:`SecretError` when a secret is not there.
        """
        kind = login.auth or self._settings.auth
        if kind == PAT:
            return self._personal(login, secrets)
        return self._machine(login, secrets) if kind == OAUTH_M2M else self._federated(login)

    def drop(self, token: str) -> bool:
        """Forget a token that was not accepted. Says whether another one can be had."""
        dropped = False
        for kept in self._kept.values():
            if kept.token == token:
                kept.token, dropped = "", True
        return dropped

    def _personal(self, login: Login, secrets: Secrets) -> str:
        group = login.secret or TOKEN_SECRET
        try:
            token = secrets.get(group, "token")
        except SecretError as e:
            # A secret that was named in particular is not replaced by the one for everybody.
            if group != TOKEN_SECRET or not (token := self._of_flytekit(secrets)):
                raise SecretError(
                    f"there is no Databricks token: {e}"
                    + ("" if group != TOKEN_SECRET else "; FLYTE_DATABRICKS_ACCESS_TOKEN is not there either")
                ) from None
        if not token.isascii() or not token.isprintable() or not token:
            raise SecretError(f"the Databricks token in secret {group!r} is empty, or no token: it has to be plain text")
        return token

    def _of_flytekit(self, secrets: Secrets) -> str:
        """The secret that flytekit calls FLYTE_DATABRICKS_ACCESS_TOKEN: it has a key, and no group."""
        try:
            return secrets.get("flyte_databricks", "access_token")  # the same variable as without a group
        except SecretError:
            try:
                return (secrets.folder / "flyte_databricks_access_token").read_text().strip()
            except OSError:
                return ""

    def _machine(self, login: Login, secrets: Secrets) -> dict[str, str]:
        settings = self._settings
        group = login.secret or settings.oauth_secret
        client_id = _maybe(secrets, group, "client_id") or login.client_id or settings.client_id
        client_secret = _maybe(secrets, group, "client_secret")
        if not client_secret and group == settings.oauth_secret:
            client_secret = settings.client_secret
        if not client_id or not client_secret:
            lacks = "id" if not client_id else "secret"
            raise SecretError(
                f"OAuth needs a client {lacks}: it is neither key client_{lacks} of secret {group!r} "
                f"nor in the environment as DATABRICKS_CLIENT_{lacks.upper()}"
            )
        return {
            "grant_type": "client_credentials",
            "scope": "all-apis",
            "client_id": client_id,
            "client_secret": client_secret,
        }

    def _federated(self, login: Login) -> dict[str, str]:
        settings = self._settings
        client_id = login.client_id or settings.client_id
        if not client_id:
            raise SecretError("federation needs a client id: databricks_client_id, or DATABRICKS_CLIENT_ID")
        try:
            subject = Path(settings.oidc_token_file).read_text().strip()
        except OSError as e:
            raise SecretError(f"the token file {settings.oidc_token_file!r} cannot be read: {e.strerror}") from None
        return {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "scope": "all-apis",
            "client_id": client_id,
            "subject_token": subject,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        }

    async def _fetch(self, form: dict[str, str]) -> tuple[str, float]:
        """A token, and for how many seconds it is good."""
        try:
            response = await self._http.post("/oidc/v1/token", data=form)
        except httpx.HTTPError as e:
            raise Retry(f"Databricks gives no token: {type(e).__name__}") from e
        if response.status_code in (400, 401, 403):
            raise Unauthenticated(f"Databricks does not accept client {form['client_id']!r}: {_why(response)}")
        try:
            answer: dict[str, Any] = response.json() if response.status_code == 200 else {}
            return str(answer["access_token"]), float(answer.get("expires_in", 3600))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Retry(f"Databricks gives no token: the answer has status {response.status_code}") from None


def _maybe(secrets: Secrets, group: str, key: str) -> str:
    try:
        return secrets.get(group, key)
    except SecretError:
        return ""


def _why(response: httpx.Response) -> str:
    try:
        answer = response.json()
        return str(answer.get("error_description") or answer.get("error") or answer.get("message") or response.status_code)
    except (ValueError, AttributeError):
        return f"status {response.status_code}"
