"""Jobs one after another and side by side."""

from typing import List, Tuple

from flytekit import kwtypes, workflow
from jobs import Job

first = Job("chains.first", add=1)
second = Job("chains.second", add=10)
third = Job("chains.third", add=100)
slow = Job("chains.slow", add=1, seconds=1)
other = Job("chains.other", task_type="job_b", add=1000)
at_once = Job("chains.at_once", task_type="job_sync", add=10000)
total = Job("chains.total", inputs=kwtypes(xs=List[int]))
pair = Job("chains.pair", inputs=kwtypes(a=int, b=int))
words = Job("chains.words", inputs=kwtypes(a=str, b=str), outputs=kwtypes(o0=str))
quiet = Job("chains.quiet", inputs={}, outputs={})
zero = Job("chains.zero", inputs={}, add=7)
talkative = Job("chains.talkative", seconds=1, progress=5, add=1)


@workflow
def one(x: int = 1) -> int:
    return first(x=x)


@workflow
def chain(x: int = 1) -> int:
    """x + 111."""
    return third(x=second(x=first(x=x)))


@workflow
def slow_chain(x: int = 1) -> int:
    """x + 2 after two seconds."""
    return slow(x=slow(x=x))


@workflow
def types(x: int = 1) -> int:
    """x + 11001, by the task types job, job_b and job_sync."""
    return at_once(x=other(x=first(x=x)))


@workflow
def diamond(x: int = 1) -> Tuple[int, int]:
    """(x + 1) + 10 + (x + 1) + 100, and x + 1."""
    top = first(x=x)
    return pair(a=second(x=top), b=third(x=top)), top


@workflow
def wide(x: int = 1) -> int:
    """Ten jobs of one second side by side: 10 * (x + 1)."""
    return total(xs=[slow(x=x) for _ in range(10)])


@workflow
def deep(x: int = 1) -> int:
    """Twenty jobs in a row: x + 20."""
    for _ in range(20):
        x = first(x=x)
    return x


@workflow
def joined(a: str = "one", b: str = "two") -> str:
    """a + b + b."""
    return words(a=words(a=a, b=b), b=b)


@workflow
def silent():
    """Neither inputs nor outputs; the order alone is given."""
    a, b = quiet(), quiet()
    a >> b


@workflow
def from_nothing() -> int:
    """7 + 1."""
    return first(x=zero())


@workflow
def progress(x: int = 1) -> int:
    return talkative(x=x)
