"""What proves to Snowflake who asks: a token signed with a private key, or a token that is a secret itself."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..._errors import ConfigurationError, SecretError
from ..._secrets import Secrets
from ._account import issuer

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

GROUP = "snowflake"
PRIVATE_KEY, PASSPHRASE = "private_key", "private_key_passphrase"
# Secrets that are tokens, and what Snowflake calls each kind.
TOKENS = {"programmatic_access_token": "PROGRAMMATIC_ACCESS_TOKEN", "oauth_token": "OAUTH"}

# Anything else is no header, and what refuses it as one would show it in its error.
_TOKEN = re.compile(r"[\x21-\x7e]+")

# Snowflake takes none that lives for more than an hour. Both in seconds.
LIFETIME, RENEW_AFTER = 59 * 60, 50 * 60
# Clocks differ, and a token from the future is refused.
BACKDATED = 30
# Users and accounts stand in templates, so that somebody could name any number of them.
MAX_TOKENS = 256


@dataclass(frozen=True)
class _Key:
    digest: bytes
    key: RSAPrivateKey
    fingerprint: str


@dataclass(frozen=True)
class _Token:
    text: str
    key: bytes
    renew_at: float


class Credentials:
    """Gives the headers of a request. Tokens that it signs are kept until shortly before they end."""

    def __init__(self) -> None:
        self._key: _Key | None = None
        self._tokens: dict[tuple[str, str], _Token] = {}

    def headers(self, secrets: Secrets, account: str, user: str) -> dict[str, str]:
        """The headers for a user of an account. Secrets are read anew, so one that is rotated holds from the next call on.

        Raises :class:`SecretError` when there is no secret, or one that is no key.
        """
        pem = _private_key(secrets)
        if pem is not None:
            return _bearer(self._signed(pem, secrets, account, user), "KEYPAIR_JWT")
        for name, kind in TOKENS.items():
            if (token := _optional(secrets, name)) is not None:
                if not _TOKEN.fullmatch(token):
                    raise SecretError(f"secret {name} of group {GROUP} is no token: one is visible ASCII characters")
                return _bearer(token, kind)
        names = ", ".join((PRIVATE_KEY, *TOKENS))
        raise SecretError(
            f"the service has no credentials for Snowflake: none of the secrets {names} of group {GROUP}, the first of "
            f"which is {secrets.env_prefix}{GROUP.upper()}_{PRIVATE_KEY.upper()} in the environment, or the file "
            f"{secrets.folder / GROUP / PRIVATE_KEY}"
        )

    def forget(self, account: str, user: str) -> bool:
        """Drop the token that is kept, because it was refused. True if there was one, so that a new one may help."""
        return self._tokens.pop((account, user), None) is not None

    def _signed(self, pem: str, secrets: Secrets, account: str, user: str) -> str:
        passphrase = _optional(secrets, PASSPHRASE)
        digest = hashlib.sha256(f"{pem}\0{passphrase or ''}".encode()).digest()
        now = time.time()
        kept = self._tokens.get((account, user))
        if kept is not None and kept.key == digest and now < kept.renew_at:
            return kept.text
        if self._key is None or self._key.digest != digest:
            self._key = _load(pem, passphrase, digest)
        # https://docs.snowflake.com/en/developer-guide/sql-api/authenticating
        subject = f"{issuer(account)}.{user.upper()}"
        begin = int(now) - BACKDATED
        claims = {
            "iss": f"{subject}.{self._key.fingerprint}",
            "sub": subject,
            "iat": begin,
            "exp": begin + LIFETIME,
        }
        text = jwt_module().encode(claims, self._key.key, algorithm="RS256")
        self._tokens.pop((account, user), None)
        while len(self._tokens) >= MAX_TOKENS:
            self._tokens.pop(next(iter(self._tokens)))
        self._tokens[account, user] = _Token(text, digest, now + RENEW_AFTER)
        return str(text)


def jwt_module() -> Any:
    """PyJWT. Raises :class:`ConfigurationError`, which names the extra, where it is not installed."""
    try:
        import cryptography  # noqa: F401  # without it PyJWT signs with no RSA key
        import jwt
    except ImportError as e:
        raise ConfigurationError(f"the Snowflake plugin needs {e.name}: pip install 'flyte-backend[snowflake]'") from e
    return jwt


def _bearer(token: str, kind: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "X-Snowflake-Authorization-Token-Type": kind}


def _optional(secrets: Secrets, key: str) -> str | None:
    try:
        return secrets.get(GROUP, key)
    except SecretError:
        return None


def _private_key(secrets: Secrets) -> str | None:
    """flytekit's connector reads a secret snowflake_private_key without a group. In the environment that is the same variable
    as of group snowflake and key private_key; as a file it is another one, which is read too."""
    if (text := _optional(secrets, PRIVATE_KEY)) is not None:
        return text
    try:
        return (secrets.folder / f"{GROUP}_{PRIVATE_KEY}").read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _load(pem: str, passphrase: str | None, digest: bytes) -> _Key:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    try:
        key = load_pem_private_key(pem.encode(), passphrase.encode() if passphrase else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # their messages may show parts of it
        raise SecretError(
            f"secret {PRIVATE_KEY} of group {GROUP} is no private key in PEM form that can be read; "
            f"an encrypted one needs its passphrase as secret {PASSPHRASE}"
        ) from None
    if not isinstance(key, RSAPrivateKey):
        raise SecretError(f"secret {PRIVATE_KEY} of group {GROUP} is no RSA key, which Snowflake's SQL API needs")
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _Key(digest, key, "SHA256:" + base64.b64encode(hashlib.sha256(public).digest()).decode())
