"""Tasks whose results are cached."""

from typing import Tuple

from flytekit import kwtypes, workflow
from flytekit.core.base_task import TaskMetadata
from jobs import Job


def cached(version: str = "1", **more) -> TaskMetadata:
    return TaskMetadata(cache=True, cache_version=version, **more)


inc = Job("caching.inc", add=1)
kept = Job("caching.kept", add=10, metadata=cached())
slow = Job("caching.slow", add=100, seconds=1, metadata=cached(cache_serialize=True))
careless = Job(
    "caching.careless", inputs=kwtypes(x=int, note=str), add=1000, metadata=cached(cache_ignore_input_vars=("note",))
)
broken = Job("caching.broken", fail={"message": "broken"}, metadata=cached())


@workflow
def once(x: int = 1) -> int:
    """x + 11, the second job's result from the cache the second time."""
    return kept(x=inc(x=x))


@workflow
def twice(x: int = 1) -> Tuple[int, int]:
    """x + 10 twice, the second from the cache."""
    a, b = kept(x=x), kept(x=x)
    a.ref.node >> b.ref.node
    return a, b


@workflow
def serialized(x: int = 1) -> Tuple[int, int]:
    """x + 100 twice at the same time: one job runs, the other node waits for its result."""
    return slow(x=x), slow(x=x)


@workflow
def ignored_input(x: int = 1, note: str = "a") -> int:
    """x + 1000 from the cache, whatever the note."""
    return careless(x=x, note=note)


@workflow
def failing(x: int = 1) -> int:
    """Fails each time: a failure is not cached."""
    return broken(x=x)
