"""Gate nodes: wait for a person, a value, or time."""

from datetime import timedelta

from flytekit import approve, sleep, wait_for_input, workflow
from jobs import Job

inc = Job("gates.inc", add=1)
ten = Job("gates.ten", add=10)


@workflow
def approval(x: int = 1) -> int:
    """x + 11, once the signal "go" approves the first result."""
    return ten(x=approve(inc(x=x), "go", timeout=timedelta(hours=1)))


@workflow
def approval_soon(x: int = 1) -> int:
    """As approval, but for one second only."""
    return ten(x=approve(inc(x=x), "soon", timeout=timedelta(seconds=1)))


@workflow
def nap(x: int = 1) -> int:
    """x + 11 after a second."""
    a, rest, b = inc(x=x), sleep(timedelta(seconds=1)), ten(x=inc(x=x))
    a >> rest
    rest >> b
    return b


@workflow
def number() -> int:
    """The signal "n" + 1."""
    return inc(x=wait_for_input("n", timeout=timedelta(hours=1), expected_type=int))


@workflow
def both(x: int = 1) -> int:
    """x + 1 is approved by "ok" while the signal "n" is waited for: then n + 10."""
    n = wait_for_input("n", timeout=timedelta(hours=1), expected_type=int)
    ok = approve(inc(x=x), "ok", timeout=timedelta(hours=1))
    last = ten(x=n)
    ok.ref.node >> last.ref.node
    return last
