"""SQL queries that the service in go/examples/sqlite runs on the table that it carries in itself."""

from typing import List, Tuple

from flytekit import LaunchPlan, kwtypes, map_task, workflow
from flytekit.extras.sqlite3.task import SQLite3Config, SQLite3Task
from flytekit.types.schema import FlyteSchema

ELEMENTS = SQLite3Config(uri="embedded:elements")
IMAGE = "localhost/none:1"

elements = SQLite3Task(
    name="sql.elements",
    query_template="""
        select number, symbol, name from elements
        where name like '%{{.inputs.ending}}' order by number limit {{.inputs.limit}}
    """,
    inputs=kwtypes(limit=int, ending=str),
    output_schema_type=FlyteSchema[kwtypes(number=int, symbol=str, name=str)],
    task_config=ELEMENTS,
    container_image=IMAGE,
)
# flytekit hands on any output type, not only a schema; the service gives a number for a result of one row and one
# column, and a list for one column.
count = SQLite3Task(
    name="sql.count",
    query_template="select count(*) from elements where name like '%{{.inputs.ending}}'",
    inputs=kwtypes(ending=str),
    output_schema_type=int,
    task_config=ELEMENTS,
    container_image=IMAGE,
)
numbers = SQLite3Task(
    name="sql.numbers",
    query_template="""
        select number from elements where name like '%{{.inputs.ending}}' order by number limit {{.inputs.limit}}
    """,
    inputs=kwtypes(limit=int, ending=str),
    output_schema_type=List[int],
    task_config=ELEMENTS,
    container_image=IMAGE,
)
symbol = SQLite3Task(
    name="sql.symbol",
    query_template="select symbol from elements where number = {{.inputs.number}}",
    inputs=kwtypes(number=int),
    output_schema_type=str,
    task_config=ELEMENTS,
    container_image=IMAGE,
)
no_such_table = SQLite3Task(
    name="sql.no_such_table",
    query_template="select * from molecules",
    task_config=ELEMENTS,
    container_image=IMAGE,
)


@workflow
def table(limit: int = 10, ending: str = "ium") -> FlyteSchema:
    return elements(limit=limit, ending=ending)


@workflow
def chain(ending: str = "gen") -> Tuple[int, FlyteSchema]:
    """The first query's count is the second's limit: 3 for "gen"."""
    n = count(ending=ending)
    return n, elements(limit=n, ending=ending)


@workflow
def symbol_of(number: int) -> str:
    return symbol(number=number)


of_symbol = LaunchPlan.get_or_create(symbol_of, "sql.symbol_of_one")


@workflow
def mapped(limit: int = 3, ending: str = "gen") -> List[str]:
    """A query's numbers, each looked up by an execution of its own, since map_task takes no SQLite3Task: H, N, O."""
    return map_task(of_symbol)(number=numbers(limit=limit, ending=ending))


@workflow
def failing() -> FlyteSchema:
    return no_such_table()
