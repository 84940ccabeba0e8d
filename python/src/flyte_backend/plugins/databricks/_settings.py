"""How the service is set up for Databricks, which instances it talks to, and as whom."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..._errors import ConfigurationError, FailedPrecondition, PermissionDenied, UserError

#: Ways to log in. The names are flytekit's.
PAT, OAUTH_M2M, OIDC_FEDERATION = "pat", "oauth_m2m", "oidc_federation"
AUTH_TYPES = (PAT, OAUTH_M2M, OIDC_FEDERATION)

TOKEN_SECRET, OAUTH_SECRET = "databricks-token", "databricks-oauth"

# A host name with a port or without one: what else a URL may hold, such as a user or a path, is none of a task's business.
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{1,5})?")


def host_of(instance: str) -> str:
    """An instance as it is compared and called: ``dbc-1.cloud.databricks.com``, in lower case, without a scheme.

    Raises ValueError for what is no host, and for plain http.
    """
    host = instance.strip().lower()
    if host.startswith("http://"):
        raise ValueError(f"Databricks instance {instance!r} is plain http; a token goes over https only")
    host = host.removeprefix("https://").rstrip("/")
    if not _HOST.fullmatch(host):
        raise ValueError(f"Databricks instance {instance!r} is no host; one looks like dbc-1.cloud.databricks.com")
    return host.removesuffix(":443")


@dataclass(frozen=True)
class Settings:
    """The service's settings. :meth:`from_env` reads them."""

    #: Where tasks run that name no instance; empty for none.
    instance: str = ""
    #: All instances that the service talks to. A task cannot make it send a token to any other host.
    instances: frozenset[str] = frozenset()
    #: How the service logs in for tasks that do not say.
    auth: str = PAT
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    oauth_secret: str = OAUTH_SECRET
    oidc_token_file: str = ""
    #: Patterns of the secrets that a task may name.
    secrets: tuple[str, ...] = ("databricks-*",)
    #: A Python file that every classic task starts with, in place of the one that flytekit's connector takes from GitHub.
    entrypoint: str = ""
    credential_provider: str = ""
    task_types: tuple[str, ...] = ("databricks", "spark")

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read them. Raises :class:`ConfigurationError` for what is wrong."""
        env = os.environ if env is None else env

        def listed(name: str, default: str = "") -> tuple[str, ...]:
            return tuple(part.strip() for part in env.get(name, default).split(",") if part.strip())

        try:
            instance = host_of(env["FLYTE_DATABRICKS_INSTANCE"]) if env.get("FLYTE_DATABRICKS_INSTANCE") else ""
            instances = frozenset(host_of(part) for part in listed("FLYTE_DATABRICKS_INSTANCES"))
        except ValueError as e:
            raise ConfigurationError(f"FLYTE_DATABRICKS_INSTANCE or FLYTE_DATABRICKS_INSTANCES: {e}") from e
        auth = env.get("FLYTE_DATABRICKS_AUTH_TYPE") or PAT
        if auth not in AUTH_TYPES:
            raise ConfigurationError(f"FLYTE_DATABRICKS_AUTH_TYPE is {auth!r}; it is one of {', '.join(AUTH_TYPES)}")
        files = (env.get("FLYTE_DATABRICKS_OIDC_TOKEN_FILE"), env.get("AWS_WEB_IDENTITY_TOKEN_FILE"))
        return cls(
            instance=instance,
            instances=instances | ({instance} if instance else set()),
            auth=auth,
            client_id=env.get("DATABRICKS_CLIENT_ID", ""),
            client_secret=env.get("DATABRICKS_CLIENT_SECRET", ""),
            oauth_secret=env.get("FLYTE_DATABRICKS_OAUTH_SECRET_NAME") or OAUTH_SECRET,
            oidc_token_file=next((file for file in files if file), "/var/run/secrets/databricks/token"),
            secrets=listed("FLYTE_DATABRICKS_SECRETS", "databricks-*"),
            entrypoint=env.get("FLYTE_DATABRICKS_ENTRYPOINT", ""),
            credential_provider=env.get("FLYTE_DATABRICKS_SERVICE_CREDENTIAL_PROVIDER", ""),
            task_types=listed("FLYTE_DATABRICKS_TASK_TYPES", "databricks,spark"),
        )

    def instance_of(self, custom: Mapping[str, Any]) -> str:
        """The instance of a task: the one it names, or the service's."""
        named = custom.get("databricksInstance") or self.instance
        if not named:
            raise FailedPrecondition(
                "the task names no Databricks instance (databricks_instance), "
                "and the service has none (FLYTE_DATABRICKS_INSTANCE)"
            )
        try:
            host = host_of(str(named))
        except ValueError as e:
            raise UserError(str(e)) from e
        if not self.allows(host):
            raise PermissionDenied(
                f"the service does not talk to Databricks instance {host!r}; "
                "its operator allows instances by FLYTE_DATABRICKS_INSTANCE and FLYTE_DATABRICKS_INSTANCES",
                reason="InstanceNotAllowed",
            )
        return host

    def allows(self, host: str) -> bool:
        return host in self.instances

    def login_of(self, custom: Mapping[str, Any]) -> Login:
        """How a task wants to be logged in. Only names: what it does not say is left to the service, whenever it is needed."""
        auth = str(custom.get("databricksAuthType") or "")
        if auth and auth not in AUTH_TYPES:
            raise UserError(f"the task's databricks_auth_type is {auth!r}; it is one of {', '.join(AUTH_TYPES)}")
        kind = auth or self.auth
        secret = str(custom.get("databricksTokenSecret" if kind == PAT else "databricksOauthSecret") or "")
        if kind == OIDC_FEDERATION:
            secret = ""
            file = custom.get("databricksOidcTokenFile")
            if file and file != self.oidc_token_file:
                raise PermissionDenied(
                    f"the task names the token file {file!r}; the service reads only its own, {self.oidc_token_file!r}"
                )
        if not self.may_name(secret):
            raise PermissionDenied(
                f"a task may not name secret {secret!r}; the service's operator allows {', '.join(self.secrets) or 'none'} "
                "(FLYTE_DATABRICKS_SECRETS)"
            )
        return Login(auth, secret, "" if kind == PAT else str(custom.get("databricksClientId") or ""))

    def may_name(self, secret: str) -> bool:
        """Whether a task may name a secret. Empty is the service's own."""
        return secret in ("", TOKEN_SECRET, self.oauth_secret) or any(
            fnmatch.fnmatchcase(secret, pattern) for pattern in self.secrets
        )


@dataclass(frozen=True)
class Login:
    """How a task is logged in: names, never a secret. What is empty is the service's own."""

    auth: str = ""
    secret: str = ""
    client_id: str = ""
