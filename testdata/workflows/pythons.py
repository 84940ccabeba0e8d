"""Python functions, which run in containers of this code."""

import os
from datetime import timedelta
from typing import List, Optional, Tuple

import flytekit
from flytekit import map_task, task, workflow
from flytekit.exceptions.user import FlyteRecoverableException
from flytekit.types.file import FlyteFile
from jobs import Job

inc = Job("pythons.inc", add=1)


@task
def double(x: int) -> int:
    return 2 * x


@task
def greet(name: str) -> str:
    return f"hello, {name}"


@task
def divide(a: int, b: int) -> float:
    return a / b


@task(retries=2)
def third_time_lucky(x: int) -> int:
    attempt = int(os.environ.get("FLYTE_ATTEMPT_NUMBER", "0"))
    if attempt < 2:
        raise FlyteRecoverableException(f"attempt {attempt} fails")
    return x


@task(timeout=timedelta(seconds=5))
def sleepy(seconds: int) -> int:
    import time

    time.sleep(seconds)
    return seconds


@task
def who() -> str:
    return flytekit.current_context().execution_id.name


@task
def not_three(x: int) -> int:
    if x == 3:
        raise ValueError("not 3")
    return x + 1


@task
def write(text: str) -> FlyteFile:
    path = os.path.join(flytekit.current_context().working_directory, "a name.txt")
    with open(path, "w") as f:
        f.write(text)
    return FlyteFile(path)


@task
def read(file: FlyteFile) -> str:
    with open(file) as f:
        return f.read()


@workflow
def plain(x: int = 1, name: str = "flyte") -> Tuple[int, str]:
    return double(x=double(x=x)), greet(name=name)


@workflow
def failing(a: int = 1, b: int = 0) -> float:
    return divide(a=a, b=b)


@workflow
def retried(x: int = 1) -> int:
    return third_time_lucky(x=x)


@workflow
def too_slow(seconds: int = 60) -> int:
    return sleepy(seconds=seconds)


@workflow
def context() -> str:
    """The execution's own name."""
    return who()


@workflow
def mixed(x: int = 1) -> int:
    """A job, a container, a job: 2 * (x + 1) + 1."""
    return inc(x=double(x=inc(x=x)))


@workflow
def mapped(xs: List[int] = [1, 2, 3]) -> List[int]:
    """map_task over a function: each doubled."""
    return map_task(double)(x=xs)


@workflow
def mapped_half(xs: List[int] = [1, 2, 3, 4]) -> List[Optional[int]]:
    return map_task(not_three, min_success_ratio=0.5)(x=xs)


@workflow
def file(text: str = "written") -> str:
    """The text, by way of a file."""
    return read(file=write(text=text))
