"""The workflow of `make demo`: SQL queries that a backend service runs, one's result fed into the next.

    pyflyte --pkgs demo package --source testdata/workflows/demo --image localhost/none:1 --output demo.tgz

The table `elements` is carried by the service in go/examples/sqlite. A query there gives what its task declares: a table,
a value (one row), or a list (one column).
"""

from typing import Any, Dict, List, Tuple, Type

from flytekit import kwtypes, map_task, workflow
from flytekit.configuration import SerializationSettings
from flytekit.core.interface import Interface
from flytekit.core.python_function_task import PythonInstanceTask
from flytekit.core.task import Echo
from flytekit.extras.sqlite3.task import SQLite3Config, SQLite3Task
from flytekit.types.schema import FlyteSchema

ELEMENTS = SQLite3Config(uri="embedded:elements")
# No container is ever started; flytekit wants an image all the same.
IMAGE = "localhost/none:1"


class MappedQuery(PythonInstanceTask[SQLite3Config]):
    """A SQLite3Task for map_task, which takes tasks of functions and PythonInstanceTasks, and SQLite3Task is neither."""

    def __init__(self, name: str, query_template: str, inputs: Dict[str, Type], output: Type, config: SQLite3Config):
        super().__init__(
            name=name,
            task_config=config,
            task_type="sqlite",
            interface=Interface(inputs=inputs, outputs=kwtypes(results=output)),
        )
        self._query_template = query_template

    def get_custom(self, settings: SerializationSettings) -> Dict[str, Any]:
        return {"query_template": self._query_template, "uri": self.task_config.uri, "compressed": False}

    def get_container(self, settings: SerializationSettings) -> None:
        return None

    def execute(self, **kwargs: Any) -> Any:
        raise NotImplementedError("the table is at the backend service")


latest_year = SQLite3Task(
    name="demo.latest_year",
    query_template="select max(discovered) from elements where name like '%{{.inputs.ending}}'",
    inputs=kwtypes(ending=str),
    output_schema_type=int,
    task_config=ELEMENTS,
    container_image=IMAGE,
)
numbers = SQLite3Task(
    name="demo.numbers",
    query_template="""
        select number from elements
        where name like '%{{.inputs.ending}}' and discovered <= {{.inputs.year}}
        order by discovered desc, number limit {{.inputs.limit}}
    """,
    inputs=kwtypes(ending=str, year=int, limit=int),
    output_schema_type=List[int],
    task_config=ELEMENTS,
    container_image=IMAGE,
)
describe = MappedQuery(
    name="demo.describe",
    query_template="""
        select symbol || ', ' || name || ', discovered ' || discovered from elements where number = {{.inputs.number}}
    """,
    inputs=kwtypes(number=int),
    output=str,
    config=ELEMENTS,
)
decades = SQLite3Task(
    name="demo.decades",
    query_template="""
        select discovered / 10 * 10 as decade, count(*) as elements, round(avg(atomic_weight), 2) as average_weight
        from elements where discovered <= {{.inputs.year}} group by decade order by decade
    """,
    inputs=kwtypes(year=int),
    output_schema_type=FlyteSchema[kwtypes(decade=int, elements=int, average_weight=float)],
    task_config=ELEMENTS,
    container_image=IMAGE,
)
# A type that no backend service lists: propeller's own echo plugin runs it.
echo = Echo("demo.echo", inputs={"lines": List[str]})


@workflow
def elements(ending: str = "ium", limit: int = 20) -> Tuple[List[str], FlyteSchema]:
    """The latest discoveries among the elements whose name ends so, and a table of discoveries by decade up to then.

    1. latest_year finds a year, which is an input of
    2. numbers, which gives a list, over which
    3. describe is mapped: up to 20 queries at once;
    4. echo hands their lines on; it falls back to a plugin that is built in.
    5. decades, beside 2 to 4, writes a Parquet file.
    """
    year = latest_year(ending=ending)
    lines = map_task(describe)(number=numbers(ending=ending, year=year, limit=limit))
    return echo(lines=lines), decades(year=year)
