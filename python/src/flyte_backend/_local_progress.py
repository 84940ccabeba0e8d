"""Shows on standard error how a task of a local run is getting on."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping

LONGEST = 400


class Progress:
    """What is known of one task. On a terminal it is a line that changes; elsewhere a line for each change."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._stream = sys.stderr
        self._is_terminal = self._stream.isatty()
        self._shown = ""
        self._links: set[tuple[str, str]] = set()

    def show(self, state: str, message: str = "", links: Mapping[str, str] | None = None) -> None:
        """The state, and links that were not shown yet."""
        for name, uri in (links or {}).items():
            if (name, uri) not in self._links:
                self._links.add((name, uri))
                self.note(f"{name or 'Log'}: {uri}")
        line = _plain(f"{self._name}: {state}" + (f": {message}" if message else ""))
        if line == self._shown:
            return
        self._shown = line
        if self._is_terminal:
            width = max(20, shutil.get_terminal_size().columns - 1)
            self._write(f"\r\x1b[K{line[:width]}")
        else:
            self._write(line + "\n")

    def note(self, text: str) -> None:
        """A line that stays."""
        line = _plain(f"{self._name}: {text}")
        if self._is_terminal:
            self._write(f"\r\x1b[K{line}\n{self._shown}")
        else:
            self._write(line + "\n")

    def end(self) -> None:
        """The last state stays where it is."""
        if self._is_terminal and self._shown:
            self._write("\n")
        self._shown = ""

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _plain(text: str) -> str:
    """One line, without what would move a terminal's cursor."""
    line = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return line if len(line) <= LONGEST else line[:LONGEST] + "…"
