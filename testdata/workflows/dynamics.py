"""Dynamic workflows: a container of this code makes the nodes at run time."""

from typing import List

from flytekit import LaunchPlan, dynamic, kwtypes, map_task, workflow
from jobs import Job

inc = Job("dynamics.inc", add=1)
total = Job("dynamics.total", inputs=kwtypes(xs=List[int]))
broken = Job("dynamics.broken", fail={"kind": "user", "code": "Broken", "message": "broken in a dynamic workflow"})


@workflow
def sub(x: int) -> int:
    """x + 2."""
    return inc(x=inc(x=x))


of_sub = LaunchPlan.get_or_create(sub, "dynamics.of_sub")


@dynamic
def jobs_of(n: int) -> int:
    return total(xs=[inc(x=i) for i in range(n)])


@dynamic
def map_of(n: int) -> List[int]:
    return map_task(inc)(x=list(range(n)))


@dynamic
def subs_of(n: int) -> List[int]:
    return [sub(x=i) for i in range(n)]


@dynamic
def children_of(n: int) -> List[int]:
    return [of_sub(x=i) for i in range(n)]


@dynamic
def deeper(n: int) -> int:
    return inc(x=jobs_of(n=n))


@dynamic
def broken_of(n: int) -> int:
    return broken(x=n)


@dynamic
def raises(n: int) -> int:
    if n > 0:
        raise ValueError("the function itself fails")
    return inc(x=n)


@dynamic
def nothing_of(n: int):
    for i in range(n):
        inc(x=i)


@workflow
def jobs(n: int = 3) -> int:
    """n jobs and their sum, + 1: 1 + 2 + ... + n + 1."""
    return inc(x=jobs_of(n=n))


@workflow
def mapped(n: int = 3) -> List[int]:
    """A map in a dynamic workflow: 1 to n."""
    return map_of(n=n)


@workflow
def subworkflows(n: int = 3) -> List[int]:
    """Each of 0 to n - 1, + 2."""
    return subs_of(n=n)


@workflow
def children(n: int = 2) -> List[int]:
    """The same by child executions."""
    return children_of(n=n)


@workflow
def nested(n: int = 3) -> int:
    """A dynamic workflow in a dynamic workflow: 1 + 2 + ... + n + 1."""
    return deeper(n=n)


@workflow
def failing_job(n: int = 1) -> int:
    return broken_of(n=n)


@workflow
def failing_function(n: int = 1) -> int:
    return raises(n=n)


@workflow
def silent(n: int = 2):
    nothing_of(n=n)
