"""Accounts: their form, the host that each one has, and its page in Snowsight."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from urllib.parse import quote

from ..._errors import ConfigurationError, PermissionDenied, UserError

HOST_VARIABLE = "FLYTE_SNOWFLAKE_HOST"
ACCOUNTS_VARIABLE = "FLYTE_SNOWFLAKE_ACCOUNTS"

# A template's author writes it and a token goes to the host that it names, so nothing passes that could be more than labels
# below the vendor's domain: organisation-account, or a locator with region, cloud and "privatelink".
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_ACCOUNT = re.compile(rf"{_LABEL}(?:\.{_LABEL}){{0,3}}")
_HOST = re.compile(r"[A-Za-z0-9.{}_-]+(?::[0-9]{1,5})?")


class Accounts:
    """Which host an account is reached at, and which accounts are served."""

    def __init__(self, host: str = "", only: Sequence[str] = ()) -> None:
        """``host`` (``name`` or ``name:port``, in which ``{account}`` stands for the account) takes the place of the vendor's,
        for private links. ``only`` limits the accounts; none means any. Without them the environment says it."""
        self._host = host or os.environ.get(HOST_VARIABLE, "")
        given = list(only) or os.environ.get(ACCOUNTS_VARIABLE, "").split(",")
        self._only = {account.strip().upper() for account in given if account.strip()}
        if self._host and (not _HOST.fullmatch(self._host) or re.search(r"[{}]", self._host.replace("{account}", ""))):
            raise ConfigurationError(
                f"{HOST_VARIABLE} is {self._host!r}; a host is due, "
                "such as {account}.privatelink.snowflakecomputing.com or snowflake.example.com:443"
            )

    def check(self, account: str) -> None:
        """Raises :class:`UserError` for what is no account, and :class:`PermissionDenied` for one that is not served."""
        if not _ACCOUNT.fullmatch(account) or account.lower().endswith((".snowflakecomputing.com", ".snowflakecomputing.cn")):
            raise UserError(
                f"the task's account is {account!r}; the account's identifier alone is due, "
                "such as myorg-myaccount or xy12345.eu-west-1"
            )
        if self._only and account.upper() not in self._only:
            raise PermissionDenied(f"the service does not serve account {account}; its operator limits it to others")

    def url(self, account: str) -> str:
        """The address of an account's API. It is checked here too: job ids come from outside."""
        self.check(account)
        name = account.lower().replace("_", "-")  # an underscore is no character of a certificate's names
        if self._host:
            return f"https://{self._host.replace('{account}', name)}"
        labels = name.split(".")
        top = "cn" if len(labels) > 1 and labels[1].startswith("cn-") else "com"
        return f"https://{name}.snowflakecomputing.{top}"


def issuer(account: str) -> str:
    """The account as tokens name it: upper case, without region and cloud."""
    name, _, rest = account.partition(".")
    if rest == "global" or rest.startswith("global."):
        name = name.partition("-")[0]  # such names end with an id that is no part of it
    return name.upper()


def console(account: str, handle: str) -> str:
    """The page of a statement in Snowsight: below the organisation and account, or below the region and locator.

    flytekit's connector puts the two of organisation-account the other way round, which leads nowhere.
    """
    name, _, region = account.removesuffix(".privatelink").partition(".")
    organisation, dash, short = name.partition("-")
    if region:
        place = [region, name]
    elif dash:
        place = [organisation, short]
    else:
        place = ["us-west-2", name]  # where locators without a region are
    first, second = (quote(part.lower(), safe="") for part in place)
    return f"https://app.snowflake.com/{first}/{second}/#/compute/history/queries/{quote(handle, safe='')}/detail"
