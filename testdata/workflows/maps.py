"""map_task over jobs."""

from functools import partial
from typing import List, Optional, Tuple

from flytekit import kwtypes, map_task, workflow
from flytekit.core.base_task import TaskMetadata
from jobs import Job

inc = Job("maps.inc", add=1)
total = Job("maps.total", inputs=kwtypes(xs=List[int]))
pair = Job("maps.pair", inputs=kwtypes(x=int, y=int))
picky = Job("maps.picky", add=1, fail={"kind": "user", "code": "Picky", "message": "not 3", "only_inputs": [3]})
flaky = Job(
    "maps.flaky",
    retries=2,
    add=1,
    fail={"kind": "user", "code": "Flaky", "message": "not yet", "times": 1, "recoverable": True, "only_inputs": [2]},
)
once = Job("maps.once", add=1, fail={"kind": "user", "message": "not yet", "times": 1, "recoverable": True})
cached = Job("maps.cached", add=1, metadata=TaskMetadata(cache=True, cache_version="1"))
words = Job("maps.words", inputs=kwtypes(a=str), outputs=kwtypes(o0=str))
quiet = Job("maps.quiet", outputs={})
slow = Job("maps.slow", add=1, seconds=0.3)
long = Job("maps.long", add=1, seconds=3600)
other = Job("maps.other", task_type="job_b", add=1)
at_once = Job("maps.at_once", task_type="job_sync", add=1)


@workflow
def plain(xs: List[int] = [1, 2, 3]) -> List[int]:
    """Each + 1. An empty list is mapped too."""
    return map_task(inc)(x=xs)


@workflow
def summed(xs: List[int] = [1, 2, 3]) -> int:
    """Between two other jobs: the sum of each + 1, + 1."""
    return inc(x=total(xs=map_task(inc)(x=xs)))


@workflow
def strings(xs: List[str] = ["a", "b"]) -> List[str]:
    return map_task(words)(a=xs)


@workflow
def nothing(xs: List[int] = [1, 2]):
    """Mapped jobs without outputs."""
    map_task(quiet)(x=xs)


@workflow
def half(xs: List[int] = [1, 2, 3, 4]) -> List[Optional[int]]:
    """None in place of 3, which fails."""
    return map_task(picky, min_success_ratio=0.5)(x=xs)


@workflow
def all_or_nothing(xs: List[int] = [1, 2, 3, 4]) -> List[int]:
    """Fails with 3 in the list."""
    return map_task(picky)(x=xs)


@workflow
def two_at_a_time(xs: List[int] = [1, 2, 3, 4, 5, 6]) -> List[int]:
    """Jobs of 0.3 seconds, at most two at once."""
    return map_task(slow, concurrency=2)(x=xs)


@workflow
def retried(xs: List[int] = [1, 2, 3]) -> List[int]:
    """Each + 1; the job of 2 fails once. The task's own retries."""
    return map_task(flaky)(x=xs)


@workflow
def retried_by_metadata(xs: List[int] = [1, 2, 3]) -> List[int]:
    """Each + 1; every job fails once. The map's retries."""
    return map_task(once, metadata=TaskMetadata(retries=1))(x=xs)


@workflow
def bound(xs: List[int] = [1, 2, 3], y: int = 10) -> List[int]:
    """Each + y."""
    return map_task(partial(pair, y=y))(x=xs)


@workflow
def two_lists(xs: List[int] = [1, 2, 3], ys: List[int] = [10, 20, 30]) -> List[int]:
    return map_task(pair)(x=xs, y=ys)


@workflow
def from_cache(xs: List[int] = [1, 2, 3]) -> List[int]:
    """Each + 1, from the cache the second time."""
    return map_task(cached)(x=xs)


@workflow
def types(xs: List[int] = [1, 2, 3]) -> List[int]:
    """Each + 2, by the task types job_b and job_sync."""
    return map_task(at_once)(x=map_task(other)(x=xs))


@workflow
def inside(xs: List[int] = [1, 2, 3]) -> Tuple[List[int], int]:
    """A map in a sub-workflow."""
    ys = plain(xs=xs)
    return ys, total(xs=ys)


@workflow
def twice(xs: List[int] = [1, 2, 3]) -> List[int]:
    """A map over a map's results: each + 2."""
    return map_task(slow)(x=map_task(inc)(x=xs))


@workflow
def endless(xs: List[int] = [1, 2, 3]) -> List[int]:
    """To be aborted, or each + 1 in the end."""
    return map_task(long)(x=xs)
