"""Secrets, read where flytekit reads them."""

from __future__ import annotations

import os
from pathlib import Path

from ._errors import SecretError, UserError


class Secrets:
    """Reads a secret from the environment variable ``_FSEC_<GROUP>_<KEY>``, else from the file ``/etc/secrets/<group>/<key>``.

    Both places can be changed; for another kind of store, override :meth:`get`, and raise :class:`SecretError` there too.
    """

    def __init__(self, *, env_prefix: str = "_FSEC_", folder: str | Path = "/etc/secrets") -> None:
        self.env_prefix = env_prefix
        self.folder = Path(folder)

    def get(self, group: str, key: str) -> str:
        """The secret, read anew, so that a file that is rotated is seen. White space round it is cut off.

        One that is not there, or cannot be read, is a :class:`SecretError`, which names where it was looked for. One that is
        empty is empty text.
        """
        for part in (group, key):
            if part in ("", ".", "..") or any(c in "/\\\0=" for c in part):
                raise UserError(f"a secret has a group and a key, and {part!r} cannot be one")
        variable = self.env_prefix + f"{group}_{key}".upper()
        if (value := os.environ.get(variable)) is not None:
            return value.strip()
        file = self.folder / group.lower() / key.lower()
        try:
            return file.read_text().strip()
        except (FileNotFoundError, NotADirectoryError):
            raise SecretError(
                f"secret {key} of group {group} is neither in the environment as {variable} nor in the file {file}"
            ) from None
        except OSError as e:
            raise SecretError(f"secret {key} of group {group}: the file {file} cannot be read: {e.strerror}") from None
        except UnicodeDecodeError:  # which holds all of it
            raise SecretError(f"secret {key} of group {group}: the file {file} is no text in UTF-8") from None
