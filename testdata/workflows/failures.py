"""What else happens when a node fails: failure nodes and failure policies."""

from typing import Optional

from flytekit import WorkflowFailurePolicy, kwtypes, workflow
from flytekit.types.error.error import FlyteError
from jobs import Job

inc = Job("failures.inc", add=1)
slow = Job("failures.slow", add=1, seconds=2)
broken = Job("failures.broken", fail={"kind": "user", "code": "Broken", "message": "broken on purpose"})
tidy = Job("failures.tidy", inputs=kwtypes(x=int), outputs={})
report = Job("failures.report", inputs=kwtypes(x=int, err=Optional[FlyteError]), outputs={})
broken_tidy = Job("failures.broken_tidy", inputs=kwtypes(x=int), outputs={}, fail={"message": "cannot tidy up"})


@workflow
def tidy_up(x: int = 1):
    tidy(x=inc(x=x))


@workflow(on_failure=tidy)
def with_task(x: int = 1) -> int:
    """Fails, after the job failures.tidy."""
    return inc(x=broken(x=x))


@workflow(on_failure=report)
def with_error(x: int = 1) -> int:
    """Fails, after the job failures.report, which gets the error."""
    return inc(x=broken(x=x))


@workflow(on_failure=tidy_up)
def with_workflow(x: int = 1) -> int:
    """Fails, after the workflow failures.tidy_up."""
    return inc(x=broken(x=x))


@workflow(on_failure=broken_tidy)
def twice(x: int = 1) -> int:
    """Fails, and its failure node too."""
    return inc(x=broken(x=x))


@workflow(on_failure=tidy)
def unneeded(x: int = 1) -> int:
    """Succeeds with x + 1; failures.tidy does not run."""
    return inc(x=x)


@workflow
def outer(x: int = 1) -> int:
    """A sub-workflow fails, after its failure node."""
    return inc(x=with_task(x=x))


@workflow(failure_policy=WorkflowFailurePolicy.FAIL_AFTER_EXECUTABLE_NODES_COMPLETE)
def finish_others(x: int = 1) -> int:
    """Fails, but only after two slow jobs in a row and another one have ended."""
    slow(x=slow(x=x))
    inc(x=broken(x=x))
    return inc(x=slow(x=x))


@workflow
def fail_at_once(x: int = 1) -> int:
    """Fails while a slow job runs, which is deleted; what follows it is not created."""
    broken(x=x)
    return inc(x=slow(x=x))
