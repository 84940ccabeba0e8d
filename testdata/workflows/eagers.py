"""An eager workflow: a container whose code starts executions by itself, through flyteadmin."""

from flytekit import eager, task


@task
def inc(x: int) -> int:
    return x + 1


@eager
async def twice(x: int) -> int:
    return inc(x=inc(x=x))
