"""Tasks that fail: for some time, for ever, for a user's or a system's reason, or by taking too long."""

from datetime import timedelta

from flytekit import workflow
from jobs import Job

inc = Job("retries.inc", add=1)
flaky = Job(
    "retries.flaky",
    retries=2,
    add=1,
    fail={"kind": "user", "code": "Flaky", "message": "not yet", "times": 2, "recoverable": True},
)
hopeless = Job(
    "retries.hopeless", retries=1, fail={"kind": "user", "code": "Hopeless", "message": "never", "recoverable": True}
)
broken = Job("retries.broken", retries=3, fail={"kind": "user", "code": "Broken", "message": "a user's mistake"})
shaky = Job(
    "retries.shaky",
    add=1,
    fail={"kind": "system", "code": "Shaky", "message": "a machine was lost", "times": 2, "recoverable": True},
)
unlucky = Job("retries.unlucky", add=1, fail={"kind": "user", "message": "not yet", "times": 1, "recoverable": True})
late = Job("retries.late", seconds=3600, timeout=timedelta(seconds=2))
late_again = Job("retries.late_again", seconds=3600, timeout=timedelta(seconds=1), retries=1)
picky = Job("retries.picky", add=1, fail={"kind": "user", "code": "Picky", "message": "not 3", "only_inputs": [3]})
endless = Job("retries.endless", seconds=3600)


@workflow
def recovers(x: int = 1) -> int:
    """x + 2, the second of three jobs' attempts failing twice."""
    return inc(x=flaky(x=x))


@workflow
def exhausted(x: int = 1) -> int:
    """Fails after two attempts."""
    return inc(x=hopeless(x=x))


@workflow
def permanent(x: int = 1) -> int:
    """Fails after one attempt, whatever its retries."""
    return inc(x=broken(x=x))


@workflow
def system(x: int = 1) -> int:
    """x + 2: two system errors, which cost no user retries."""
    return inc(x=shaky(x=x))


@workflow
def timed_out(x: int = 1) -> int:
    """Takes too long."""
    return inc(x=late(x=x))


@workflow
def timed_out_twice(x: int = 1) -> int:
    """Takes too long in each of two attempts."""
    return inc(x=late_again(x=x))


@workflow
def fails_on_3(x: int = 1) -> int:
    """x + 2, and a failure for 3."""
    return inc(x=picky(x=x))


@workflow
def overridden(x: int = 1) -> int:
    """x + 2: the node gives the retries that its task has not."""
    return inc(x=unlucky(x=x).with_overrides(retries=1, node_name="second-chance"))


@workflow
def long_running(x: int = 1) -> int:
    """To be aborted."""
    return inc(x=endless(x=x))


@workflow
def two_long_running(x: int = 1):
    """To be aborted, with two jobs that run."""
    endless(x=x)
    endless(x=x)
