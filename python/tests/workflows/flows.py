"""Workflows as people write them. Nothing in here knows about plugins."""

import datetime
import json
import sqlite3
import typing
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

from flyte_backend import JobState
from flyteidl.core import errors_pb2, literals_pb2
from flytekit import (
    ImageSpec,
    PythonFunctionTask,
    StructuredDataset,
    TaskMetadata,
    conditional,
    dynamic,
    eager,
    kwtypes,
    map_task,
    task,
    workflow,
)
from flytekit.configuration import ImageConfig, SerializationSettings
from flytekit.core.interface import Interface
from flytekit.extend import PythonTask, TaskPlugins
from flytekit.extras.sqlite3.task import SQLite3Config, SQLite3Task
from flytekit.tools.translator import get_serializable
from flytekit.types.file import FlyteFile
from flytekitplugins.bigquery import BigQueryConfig, BigQueryTask
from google.protobuf import json_format
from pandas import DataFrame

RETRYABLE = JobState.RETRYABLE_FAILED


class Square(PythonTask[None]):
    """A task type that has no way to run here."""

    def __init__(self, name: str, **more: Any) -> None:
        super().__init__("square", name, None, Interface({"x": int}, {"o0": int}), **more)

    def get_custom(self, settings: SerializationSettings) -> Dict[str, Any]:
        return {"way": "quick"}

    def execute(self, **values: Any) -> Any:
        raise NotImplementedError("this runs at a backend")


def not_here() -> int:
    raise NotImplementedError("this runs at a backend")


square = Square("square")
patient = Square("patient", metadata=TaskMetadata(retries=2))
cached = Square("cached", metadata=TaskMetadata(cache=True, cache_version="1"))


@task
def plus(x: int) -> int:
    return x + 1


@dynamic
def dynamically(x: int) -> int:
    return plus(x=square(x=x))


@workflow
def nested(x: int) -> int:
    return square(x=x)


@workflow
def everything(x: int) -> typing.Tuple[int, int, int]:
    once = square(x=x)
    twice = dynamically(x=once)
    branch = conditional("which").if_(once > 3).then(nested(x=x)).else_().then(square(x=once))
    return twice, branch, plus(x=square(x=branch))


@eager
async def eagerly(x: int) -> int:
    once = square(x=x)
    return plus(x=square(x=once))


@dataclass
class Mapped:
    """Chooses the task type of a function."""


class MappedTask(PythonFunctionTask[Mapped]):
    def __init__(self, task_config: Mapped, task_function: Any, **more: Any) -> None:
        super().__init__(task_config=task_config, task_type="mapped", task_function=task_function, **more)


TaskPlugins.register_pythontask_plugin(Mapped, MappedTask)


@task(task_config=Mapped())
def mapped(x: int, more: int) -> int:
    return not_here()


@task(task_config=Mapped())
def chosen(x: int) -> int:
    return not_here()


@task(
    task_config=Mapped(),
    container_image=ImageSpec(name="images", registry="registry.example", builder="none", packages=["numpy"]),
)
def with_image(x: int) -> int:
    return not_here()


@workflow
def maps(xs: List[int]) -> List[int]:
    return map_task(partial(mapped, more=10))(x=xs)


@workflow
def maps_mostly(xs: List[int]) -> List[Optional[int]]:
    return map_task(chosen, min_success_ratio=0.6)(x=xs)


lite = SQLite3Task(
    name="lite",
    query_template="select 1 limit {{ .inputs.limit }}",
    inputs=kwtypes(limit=int),
    output_schema_type=StructuredDataset,
    task_config=SQLite3Config(uri="/nowhere"),
)

big = BigQueryTask(
    name="big",
    query_template="select * from t where day = @day",
    inputs=kwtypes(day=datetime.datetime),
    output_structured_dataset_type=StructuredDataset,
    task_config=BigQueryConfig(ProjectID="p"),
)


class Query(PythonTask[None]):
    """The task type of the guide's plugin."""

    def __init__(self) -> None:
        super().__init__("query", "query", None, Interface({"limit": int}, {"result": StructuredDataset, "rows": int}))

    def get_custom(self, settings: SerializationSettings) -> Dict[str, Any]:
        return {"statement": "select 1"}

    def execute(self, **values: Any) -> Any:
        raise NotImplementedError("this runs at a backend")


query = Query()


@workflow
def report(limit: int) -> int:
    return query(limit=limit).rows


def database(folder: Path) -> str:
    """An empty one of SQLite."""
    file = folder / "empty.db"
    sqlite3.connect(file).close()
    return str(file)


@dataclass
class Point:
    x: int
    tags: List[str]


class Echoed(NamedTuple):
    o0: Point
    o1: FlyteFile
    o2: DataFrame
    o3: List[int]
    o4: Dict[str, float]
    o5: datetime.datetime
    o6: Optional[int]


ECHOED = typing.get_type_hints(Echoed)


class Echo(PythonTask[None]):
    def __init__(self) -> None:
        inputs = {"i" + name[1:]: kind for name, kind in ECHOED.items()}
        super().__init__("echo", "echo", None, Interface(inputs, dict(ECHOED), output_tuple_name="Echoed"))

    def execute(self, **values: Any) -> Any:
        raise NotImplementedError("this runs at a backend")


echo = Echo()


def square_template() -> Any:
    settings = SerializationSettings(ImageConfig(), project="p", domain="d", version="v")
    return get_serializable(OrderedDict(), settings, square).template


def as_json(template: Any) -> str:
    return json.dumps(json_format.MessageToDict(template.to_flyte_idl()))


def as_bytes(kind: str, message: Dict[str, Any]) -> bytes:
    """What a container would write."""
    found = {"LiteralMap": literals_pb2.LiteralMap, "ErrorDocument": errors_pb2.ErrorDocument}[kind]()
    written: bytes = json_format.ParseDict(message, found).SerializeToString()
    return written


def renamed(raw: bytes, **names: str) -> bytes:
    """A LiteralMap with other names."""
    given = literals_pb2.LiteralMap.FromString(raw)
    return as_bytes("LiteralMap", {"literals": {names[k]: json_format.MessageToDict(v) for k, v in given.literals.items()}})
