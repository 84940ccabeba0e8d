"""The workflow of the demo's second act: jobs of the plugin in examples/python, which is a service of its own.

Run locally, a Job squares nothing (see jobs.py).
"""

from typing import List, Tuple

from flytekit import map_task, workflow
from jobs import Job

# Long enough for a busy machine to have all of them running before the first ends.
square = Job("squares.square", task_type="square", seconds=2)


@workflow
def squares(x: int = 3, numbers: List[int] = [1, 2, 3, 4, 5, 6]) -> Tuple[int, List[int]]:
    """The square of the square of x, one job after the other, and beside them the square of each number, all at once."""
    return square(x=square(x=x)), map_task(square)(x=numbers)
