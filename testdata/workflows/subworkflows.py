"""Workflows in workflows."""

from typing import Tuple

from flytekit import workflow
from jobs import Job

inc = Job("subworkflows.inc", add=1)
ten = Job("subworkflows.ten", add=10)
broken = Job("subworkflows.broken", fail={"kind": "user", "code": "Broken", "message": "broken inside"})


@workflow
def inner(x: int = 1) -> int:
    """x + 11."""
    return ten(x=inc(x=x))


@workflow
def parent(x: int = 1) -> Tuple[int, int]:
    """x + 12 and x + 22."""
    a = inner(x=inc(x=x))
    return a, ten(x=a)


@workflow
def grandparent(x: int = 1) -> int:
    """x + 22 + 1."""
    a, b = parent(x=x)
    return inc(x=b)


@workflow
def failing_inner(x: int = 1) -> int:
    return broken(x=inc(x=x))


@workflow
def failing_parent(x: int = 1) -> int:
    return inc(x=failing_inner(x=x))
