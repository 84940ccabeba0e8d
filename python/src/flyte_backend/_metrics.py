"""The service's metrics in Prometheus's text form. They are few and fixed, and called as the Go SDK's are."""

from __future__ import annotations

import bisect
import json
import os
import platform
import threading
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PREFIX = "flyte_backend_plugin_"
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Name, kind and help of each.
INFO: dict[str, tuple[str, str]] = {
    "calls_total": ("counter", "Calls that ended, by the gRPC code that they ended with."),
    "call_duration_seconds": ("histogram", "How long calls took, by histogram."),
    "calls_in_flight": ("gauge", "Calls that run plugins' code, those among them that nobody waits for any more."),
    "calls_turned_away_total": ("counter", "Calls over the limit of calls at once."),
    "watched_jobs": ("gauge", "Jobs that callers follow."),
    "ready": ("gauge", "1 while the service reports that it is ready."),
    "build_info": ("gauge", "Always 1; tells the SDK's version."),
}

# Stands for the task type and version of calls for a plugin that is not here: what callers send is no label.
NO_PLUGIN = "(none)"

Labels = tuple[tuple[str, str], ...]


def package_version() -> str:
    try:
        return version("flyte-backend")
    except PackageNotFoundError:
        return "unknown"


# Where the workers of one service keep what they have counted, so that each can tell of all.
SHARED = "FLYTE_BACKEND_METRICS_DIR"


class _Ended:
    """Calls that ended alike: how long they took, all together and by histogram."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.buckets = [0] * (len(BUCKETS) + 1)


class Metrics:
    """Counts, from any thread."""

    def __init__(self, shared: str | None = None) -> None:
        folder = os.environ.get(SHARED) if shared is None else shared
        self._file = Path(folder) / f"{os.getpid()}.json" if folder else None
        self._lock = threading.Lock()
        self._values: dict[str, dict[Labels, float]] = {name: {} for name in INFO}
        self._ended: dict[tuple[str, ...], _Ended] = {}
        #: Calls that run plugins' code. The service counts them, on its loop.
        self.calls_in_flight = 0
        for name in ("calls_turned_away_total", "watched_jobs", "ready"):
            self._values[name][()] = 0
        info = (("version", package_version()), ("python_version", platform.python_version()))
        self._values["build_info"][info] = 1

    def add(self, name: str, by: float = 1, labels: Labels = ()) -> None:
        with self._lock:
            values = self._values[name]
            values[labels] = values.get(labels, 0) + by

    def set(self, name: str, value: float) -> None:
        with self._lock:
            self._values[name][()] = value

    def ended(self, call: str, task_type: str, plugin_version: str, transport: str, code: str, took: float) -> None:
        """A call ended."""
        key = (call, task_type, plugin_version, transport, code)
        with self._lock:
            ended = self._ended.get(key)
            if ended is None:
                ended = self._ended[key] = _Ended()
            ended.seconds += took
            ended.buckets[bisect.bisect_left(BUCKETS, took)] += 1

    def _own(self) -> tuple[dict[str, dict[Labels, float]], dict[Labels, list[int]]]:
        """What this process has counted. Labels are made here, since calls are more than looks at the metrics."""
        with self._lock:
            values = {name: dict(by) for name, by in self._values.items()}
            buckets: dict[Labels, list[int]] = {}
            values["calls_in_flight"][()] = self.calls_in_flight
            sums = values["call_duration_seconds"]
            for key, ended in self._ended.items():
                labels = tuple(zip(("call", "task_type", "plugin_version", "transport", "code"), key, strict=True))
                values["calls_total"][labels] = sum(ended.buckets)
                where = (labels[0], labels[1], labels[3])
                sums[where] = sums.get(where, 0) + ended.seconds
                buckets[where] = [a + b for a, b in zip(buckets.get(where, _Ended().buckets), ended.buckets, strict=True)]
        return values, buckets

    def save(self) -> None:
        """Let the other workers know. Nothing happens where there are none."""
        if self._file is None:
            return
        values, buckets = self._own()
        state = {
            "values": {name: [[labels, value] for labels, value in by.items()] for name, by in values.items()},
            "buckets": [[labels, counts] for labels, counts in buckets.items()],
        }
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(state))
        os.replace(new, self._file)

    def _others(self) -> Iterator[tuple[dict[str, Any], bool]]:
        """What other workers have counted, and whether they live."""
        for file in self._file.parent.glob("*.json") if self._file is not None else ():
            if file != self._file:
                try:
                    yield json.loads(file.read_text()), _lives(int(file.stem))
                except (OSError, ValueError):  # it is of a worker that is just ending, or no worker's
                    continue

    def _all(self) -> tuple[dict[str, dict[Labels, float]], dict[Labels, list[int]]]:
        """What all workers have counted. Of those that died, what only grows is kept."""
        values, buckets = self._own()
        for state, lives in self._others():
            for name, pairs in state["values"].items():
                if name == "build_info" or INFO[name][0] == "gauge" and not lives:
                    continue
                for raw, value in pairs:
                    labels = tuple((key, text) for key, text in raw)
                    have = values[name].get(labels)
                    values[name][labels] = value if have is None else min(have, value) if name == "ready" else have + value
            for raw, counts in state["buckets"]:
                labels = tuple((key, text) for key, text in raw)
                buckets[labels] = [a + b for a, b in zip(buckets.get(labels, [0] * len(counts)), counts, strict=True)]
        return values, buckets

    def text(self) -> str:
        lines = []
        self.save()
        values, buckets = self._all()
        for name, (kind, about) in INFO.items():
            lines += [f"# HELP {PREFIX}{name} {about}", f"# TYPE {PREFIX}{name} {kind}"]
            for labels, value in values[name].items():
                if kind != "histogram":
                    lines.append(f"{PREFIX}{name}{_labels(labels)} {_number(value)}")
                    continue
                seen = 0
                for most, count in zip((*map(_number, BUCKETS), "+Inf"), buckets[labels], strict=True):
                    seen += count
                    lines.append(f"{PREFIX}{name}_bucket{_labels((*labels, ('le', most)))} {seen}")
                lines.append(f"{PREFIX}{name}_sum{_labels(labels)} {_number(value)}")
                lines.append(f"{PREFIX}{name}_count{_labels(labels)} {seen}")
        return "\n".join(lines) + "\n"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(value)


def _labels(labels: Iterable[tuple[str, str]]) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    inner = ",".join(f'{name}="{escaped(value)}"' for name, value in labels)
    return f"{{{inner}}}" if inner else ""
