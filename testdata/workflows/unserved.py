"""Tasks of types that no service lists, and one that propeller's own echo plugin runs."""

from flytekit import workflow
from flytekit.core.task import Echo
from jobs import Job

inc = Job("unserved.inc", add=1)
unknown = Job("unserved.unknown", task_type="nobody_knows_this")
echo = Echo("unserved.echo", inputs={"x": int})


@workflow
def nobody(x: int = 1) -> int:
    return unknown(x=inc(x=x))


@workflow
def echoed(x: int = 1) -> int:
    """x + 2, with an echo between two jobs."""
    return inc(x=echo(x=inc(x=x)))
