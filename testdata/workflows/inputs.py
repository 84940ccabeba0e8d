"""Workflows that take every kind of input."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Dict, List, Optional, Union

from flytekit import kwtypes, workflow
from flytekit.types.directory import FlyteDirectory
from flytekit.types.file import FlyteFile
from flytekit.types.structured import StructuredDataset
from jobs import Job


class Colour(Enum):
    RED = "red"
    GREEN = "green"


@dataclass
class Point:
    x: int
    y: float = 0.5
    names: List[str] = field(default_factory=list)


SIMPLE = kwtypes(
    number=int,
    ratio=float,
    name=str,
    on=bool,
    at=datetime,
    lasting=timedelta,
)
NESTED = kwtypes(
    numbers=List[int],
    matrix=List[List[int]],
    by_name=Dict[str, int],
    maybe=Optional[int],
    either=Union[int, str],
    colour=Colour,
    point=Point,
    points=List[Point],
    anything=dict,
)
FILES = kwtypes(file=FlyteFile, folder=FlyteDirectory, table=StructuredDataset, csv=FlyteFile["csv"])

simple = Job("inputs.simple", inputs=SIMPLE, outputs=kwtypes(total=int, text=str))
nested = Job("inputs.nested", inputs=NESTED, outputs=kwtypes(total=int, text=str))
files = Job("inputs.files", inputs=FILES, outputs=kwtypes(text=str))
nothing = Job("inputs.nothing", inputs={}, outputs={})
rich = Job(
    "inputs.rich",
    inputs={},
    outputs=kwtypes(n=int, f=float, s=str, b=bool, at=datetime, d=timedelta, xs=List[int], m=Dict[str, int], o=Optional[int]),
)


@workflow
def required_simple(number: int, ratio: float, name: str, on: bool, at: datetime, lasting: timedelta) -> str:
    total, text = simple(number=number, ratio=ratio, name=name, on=on, at=at, lasting=lasting)
    return text


@workflow
def default_simple(
    number: int = 42,
    ratio: float = 0.5,
    name: str = "flyte",
    on: bool = True,
    at: datetime = datetime(2024, 2, 29, 12, 30, tzinfo=timezone.utc),
    lasting: timedelta = timedelta(hours=1, seconds=0.5),
) -> int:
    """42."""
    total, text = simple(number=number, ratio=ratio, name=name, on=on, at=at, lasting=lasting)
    return total


@workflow
def required_nested(
    numbers: List[int],
    matrix: List[List[int]],
    by_name: Dict[str, int],
    maybe: Optional[int],
    either: Union[int, str],
    colour: Colour,
    point: Point,
    points: List[Point],
    anything: dict,
) -> int:
    total, text = nested(
        numbers=numbers, matrix=matrix, by_name=by_name, maybe=maybe, either=either, colour=colour, point=point,
        points=points, anything=anything,
    )  # fmt: skip
    return total


@workflow
def default_nested(
    numbers: List[int] = [1, 2, 3],
    matrix: List[List[int]] = [[1], [2, 3]],
    by_name: Dict[str, int] = {"a": 1},
    maybe: Optional[int] = None,
    either: Union[int, str] = "text",
    colour: Colour = Colour.GREEN,
    point: Point = Point(x=1, names=["a"]),
    points: List[Point] = [Point(x=2)],
    anything: dict = {"k": [1, "two", None]},
) -> int:
    """1 + 2 + 3 twice, and 1 in a dictionary: 13."""
    total, text = nested(
        numbers=numbers, matrix=matrix, by_name=by_name, maybe=maybe, either=either, colour=colour, point=point,
        points=points, anything=anything,
    )  # fmt: skip
    return total


@workflow
def some_defaults(number: int, name: str = "flyte", on: Optional[bool] = None) -> int:
    """One required, two not: number."""
    total, text = simple(
        number=number, ratio=1.0, name=name, on=True, at=datetime(2024, 1, 1, tzinfo=timezone.utc), lasting=timedelta(1)
    )
    return total


@workflow
def required_files(file: FlyteFile, folder: FlyteDirectory, table: StructuredDataset, csv: FlyteFile["csv"]) -> str:
    return files(file=file, folder=folder, table=table, csv=csv)


@workflow
def passed_through(
    number: int = 7, maybe: Optional[str] = None, point: Point = Point(x=1), colour: Colour = Colour.RED
) -> (int, Optional[str], Point, Colour):
    """Outputs that are the inputs, and no node at all between them but one."""
    nothing()
    return number, maybe, point, colour


@workflow
def constants() -> (int, str):
    """Inputs that are bound to constants: 5 and "constant"."""
    return simple(
        number=5, ratio=2.5, name="constant", on=False, at=datetime(2024, 1, 1, tzinfo=timezone.utc), lasting=timedelta(1)
    )


@workflow
def rich_outputs() -> (int, float, str, bool, datetime, timedelta, List[int], Dict[str, int], Optional[int]):
    """Outputs of every simple kind, made by a job."""
    return rich()


@workflow
def none():
    """No inputs and no outputs."""
    nothing()
