"""Conditionals."""

from flytekit import conditional, kwtypes, workflow
from jobs import Job

inc = Job("conditionals.inc", add=1)
big = Job("conditionals.big", add=1000)
middle = Job("conditionals.middle", add=100)
small = Job("conditionals.small", add=10)
yes = Job("conditionals.yes", outputs=kwtypes(o0=bool))


@workflow
def branch(x: int = 1) -> int:
    """x + 1000 above 10, x + 10 else."""
    return conditional("size").if_(x > 10).then(big(x=x)).else_().then(small(x=x))


@workflow
def three(x: int = 1) -> int:
    """(x + 1) + 1000, 100 or 10, then + 1."""
    y = inc(x=x)
    chosen = (
        conditional("size").if_(y > 10).then(big(x=y)).elif_((y > 5) & (y <= 10)).then(middle(x=y)).else_().then(small(x=y))
    )
    return inc(x=chosen)


@workflow
def or_fail(x: int = 1) -> int:
    """x + 1000 above 10, a failure else."""
    return conditional("size").if_(x > 10).then(big(x=x)).else_().fail("x must be above 10")


@workflow
def truth(x: int = 1) -> int:
    """A job's bool decides: x + 1000."""
    answer = yes(x=x)
    return conditional("truth").if_(answer.is_true()).then(big(x=x)).else_().then(small(x=x))


@workflow
def chain(x: int = 1) -> int:
    """x + 2."""
    return inc(x=inc(x=x))


@workflow
def of_workflows(x: int = 1) -> int:
    """A sub-workflow above 10: x + 2, else x + 10."""
    return conditional("kind").if_(x > 10).then(chain(x=x)).else_().then(small(x=x))


@workflow
def nested(x: int = 1) -> int:
    """A conditional in a conditional."""
    return (
        conditional("outer")
        .if_(x > 10)
        .then(conditional("inner").if_(x > 100).then(big(x=x)).else_().then(middle(x=x)))
        .else_()
        .then(small(x=x))
    )
