"""Launch plans as nodes: child executions."""

from typing import List, Tuple

from flytekit import CronSchedule, Labels, LaunchPlan, kwtypes, map_task, reference_launch_plan, workflow
from jobs import Job

inc = Job("launchplans.inc", add=1)
pair = Job("launchplans.pair", inputs=kwtypes(x=int, y=int))
slow = Job("launchplans.slow", add=1, seconds=3600)
broken = Job("launchplans.broken", fail={"kind": "user", "code": "Broken", "message": "broken in a child"})


@workflow
def child(x: int, y: int = 0) -> int:
    """x + y + 1."""
    return pair(x=inc(x=x), y=y)


@workflow
def single(x: int) -> int:
    """x + 1."""
    return inc(x=x)


@workflow
def failing_child(x: int = 1) -> int:
    return broken(x=x)


@workflow
def endless_child(x: int = 1) -> int:
    return slow(x=x)


plain = LaunchPlan.get_or_create(child, "launchplans.plain")
with_default = LaunchPlan.get_or_create(child, "launchplans.with_default", default_inputs={"x": 5})
with_fixed = LaunchPlan.get_or_create(child, "launchplans.with_fixed", fixed_inputs={"y": 100})
of_single = LaunchPlan.get_or_create(single, "launchplans.of_single")
one_at_a_time = LaunchPlan.get_or_create(
    child, "launchplans.one_at_a_time", default_inputs={"x": 1}, max_parallelism=1, labels=Labels({"team": "test"})
)
nightly = LaunchPlan.get_or_create(
    child, "launchplans.nightly", default_inputs={"x": 1}, schedule=CronSchedule(schedule="0 3 * * *")
)
of_failing = LaunchPlan.get_or_create(failing_child, "launchplans.of_failing")
of_endless = LaunchPlan.get_or_create(endless_child, "launchplans.of_endless")


@workflow
def parent(x: int = 1) -> int:
    """A child execution between two jobs: x + 3."""
    return inc(x=plain(x=inc(x=x), y=0))


@workflow
def defaults() -> Tuple[int, int]:
    """6 and 102: default x = 5, y = 0; fixed y = 100."""
    return with_default(), with_fixed(x=1)


of_parent = LaunchPlan.get_or_create(parent, "launchplans.of_parent")


@workflow
def grandparent(x: int = 1) -> int:
    """A child in a child: x + 4."""
    return inc(x=of_parent(x=x))


@workflow
def failing_parent(x: int = 1) -> int:
    return inc(x=of_failing(x=x))


@workflow
def endless_parent(x: int = 1) -> int:
    """To be aborted, its child with it."""
    return inc(x=of_endless(x=x))


@workflow
def mapped(xs: List[int] = [1, 2, 3]) -> List[int]:
    """A map over a launch plan: each + 1."""
    return map_task(of_single)(x=xs)


@reference_launch_plan(project="elsewhere", domain="production", name="elsewhere.child", version="v9")
def missing(x: int) -> int: ...


@workflow
def of_missing(x: int = 1) -> int:
    """Refers to a launch plan that no package here has."""
    return inc(x=missing(x=x))
