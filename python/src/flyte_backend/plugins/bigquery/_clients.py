"""Google's clients, one for each project and credentials, with one access token for each credentials."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import google.auth
import google.auth.transport.requests
from google.api_core.client_info import ClientInfo
from google.api_core.retry import Retry
from google.auth import exceptions as auth_exceptions
from google.auth.credentials import Credentials
from google.cloud import bigquery
from google.oauth2 import service_account
from requests.adapters import HTTPAdapter

from ..._errors import SecretError
from ..._metrics import package_version
from ..._secrets import Secrets
from ._failures import calling

# How many connections a client keeps, how many clients credentials have, and how many credentials there are. What was not used
# for longest goes first.
CONNECTIONS, CLIENTS, ACCOUNTS = 32, 256, 256

# Seconds that a call may take.
TIMEOUT = 20.0

# A call is made once: what may go well another time is told to propeller, which repeats it, and shows why.
ONCE = Retry(predicate=lambda _: False)


# Who calls, as Google sees it.
_ABOUT = ClientInfo(user_agent=f"flyte-backend/{package_version()}")  # type: ignore[no-untyped-call]  # Google's


class Account:
    """Credentials, of which one thread at a time gets an access token, and their clients."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self._lock = threading.Lock()
        self._clients: OrderedDict[str, bigquery.Client] = OrderedDict()

    def ready(self) -> None:
        """Get an access token unless there is one. Blocks; raises google.auth's errors."""
        if self.credentials.valid:
            return
        with self._lock:
            if not self.credentials.valid:
                request = functools.partial(google.auth.transport.requests.Request(), timeout=TIMEOUT)
                self.credentials.refresh(request)  # type: ignore[no-untyped-call]  # Google's

    def client(self, project: str) -> bigquery.Client:
        with self._lock:
            client = self._clients.get(project)
            if client is None:
                client = bigquery.Client(project=project, credentials=self.credentials, client_info=_ABOUT)
                self._clients[project] = client
                # Many threads use a client; its pool is for ten, and lets go of the connections of any more.
                session = client._http
                if not session.is_mtls:
                    for prefix in ("https://", "http://"):
                        session.mount(prefix, HTTPAdapter(pool_maxsize=CONNECTIONS))
                if len(self._clients) > CLIENTS:
                    self._clients.popitem(last=False)
            self._clients.move_to_end(project)
            return client

    def close(self) -> None:
        with self._lock:
            for client in self._clients.values():
                client.close()  # type: ignore[no-untyped-call]  # Google's
            self._clients.clear()


class Clients:
    """All calls block, and may come from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._has_default = True
        self._accounts: OrderedDict[str, Account] = OrderedDict()

    @contextmanager
    def use(
        self, what: str, project: str, secret: str, secrets: Secrets, *, creates: bool = False
    ) -> Iterator[bigquery.Client]:
        """A client that has an access token, with errors of calls in the block told as propeller knows them (``calling``).

        ``secret`` is ``group/key`` of a secret with a service account's JSON; empty for application default credentials. A
        secret is read anew each time, so one that was replaced is used."""
        with calling(what, creates=creates):
            name, account = self._account(secret, secrets)
            try:
                account.ready()
            except auth_exceptions.RefreshError:
                self._forget(name)  # the file may have been replaced: the next call reads it anew
                raise
            yield account.client(project)

    def check(self) -> bool:
        """Raises when Google refuses the default credentials; an outage is no reason to take no calls. Tells whether there are
        any, which is looked for once, since it can take ten seconds: Google's client asks the network for them."""
        if not self._has_default:
            return False
        try:
            name, account = self._account("", Secrets())
        except auth_exceptions.DefaultCredentialsError:
            self._has_default = False
            return False
        try:
            account.ready()
        except auth_exceptions.RefreshError as e:
            if not e.retryable:
                self._forget(name)
                with calling("the default credentials"):
                    raise
        except auth_exceptions.TransportError:
            pass
        return True

    def close(self) -> None:
        with self._lock:
            accounts, self._accounts = list(self._accounts.values()), OrderedDict()
        for account in accounts:
            account.close()

    def _account(self, secret: str, secrets: Secrets) -> tuple[str, Account]:
        info = _service_account(secret, secrets) if secret else None
        name = hashlib.sha256(json.dumps(info, sort_keys=True).encode()).hexdigest() if info else ""
        with self._lock:
            account = self._accounts.get(name)
        if account is None:  # without the lock: to look for credentials may take its time
            if info is not None:
                credentials = _of_json(secret, info)
            else:
                credentials, _ = google.auth.default(scopes=bigquery.Client.SCOPE)
            account = Account(credentials)
        with self._lock:
            account = self._accounts.setdefault(name, account)
            self._accounts.move_to_end(name)
            if len(self._accounts) > ACCOUNTS:
                self._accounts.popitem(last=False)
            return name, account

    def _forget(self, name: str) -> None:
        with self._lock:
            self._accounts.pop(name, None)


def _service_account(secret: str, secrets: Secrets) -> dict[str, Any]:
    group, _, key = secret.partition("/")
    try:
        info = json.loads(secrets.get(group, key))
    except ValueError:  # whose text may hold some of the secret
        info = None
    if not isinstance(info, dict) or info.get("type") != "service_account":
        raise SecretError(f"secret {key} of group {group} is not the JSON of a service account's key")
    return info


def _of_json(secret: str, info: dict[str, Any]) -> Credentials:
    group, _, key = secret.partition("/")
    try:
        credentials: Credentials = service_account.Credentials.from_service_account_info(  # type: ignore[no-untyped-call]  # Google's
            info, scopes=bigquery.Client.SCOPE
        )
    except (ValueError, auth_exceptions.GoogleAuthError):  # whose text may hold some of the secret
        raise SecretError(f"secret {key} of group {group} is a service account's key that cannot be read") from None
    return credentials
