"""A workflow over three services: a query in BigQuery, one in Snowflake, a run in Databricks, and plain Python between them.

Nothing in it knows of backend plugins. TestVendors in cmd/flyte-backend-engine runs it on propeller's engine and by
`pyflyte run`.
"""

import json
import os
from typing import List, Tuple

import httpx
from flytekit import StructuredDataset, kwtypes, task, workflow
from flytekitplugins.bigquery import BigQueryConfig, BigQueryTask
from flytekitplugins.snowflake import SnowflakeConfig, SnowflakeTask
from flytekitplugins.spark import DatabricksV2

DATASET = os.environ.get("VENDORS_DATASET", "report")
SNOWFLAKE = json.loads(os.environ.get("VENDORS_SNOWFLAKE", "{}"))  # the account and so on

squares = BigQueryTask(
    name="report.squares",
    query_template=f"""
        CREATE OR REPLACE TABLE {DATASET}.squares AS
        SELECT n, n * n AS square FROM UNNEST(GENERATE_ARRAY(1, {{{{ .inputs.limit }}}})) AS n
    """,
    task_config=BigQueryConfig(ProjectID="vendors"),
    inputs=kwtypes(limit=int),
    output_structured_dataset_type=StructuredDataset,
)
halves = SnowflakeTask(
    name="report.halves",
    query_template="SELECT %(total)s / 2 AS half, %(name)s AS name",
    task_config=SnowflakeConfig(**SNOWFLAKE) if SNOWFLAKE else None,
    inputs=kwtypes(total=int, name=str),
    output_schema_type=StructuredDataset,
)


@task
def sum_of(table: StructuredDataset) -> int:
    """Reads the table that the query has made, with Google's own client."""
    from google.cloud import bigquery

    project, name = table.literal.uri.removeprefix("bq://").split(":")
    client = bigquery.Client(project=project)
    (row,) = client.query(f"SELECT SUM(square) AS total FROM `{name}`").result()
    return int(row["total"])


@task
def rows_of(result: StructuredDataset) -> List[str]:
    """Reads the statement's result. flytekit would by Snowflake's own connector, whose protocol the test's server lacks."""
    from flyte_backend import Secrets
    from flyte_backend.plugins.snowflake._auth import Credentials

    # snowflake://USER:ACCOUNT/WAREHOUSE/DATABASE/SCHEMA/STATEMENT
    who, _, _, _, statement = result.literal.uri.removeprefix("snowflake://").split("/")
    user, account = who.split(":")
    headers = {"Accept": "application/json", **Credentials().headers(Secrets(), account, user)}
    host = os.environ["FLYTE_SNOWFLAKE_HOST"]
    answer = httpx.get(f"https://{host}/api/v2/statements/{statement}", headers=headers).raise_for_status().json()
    return [" ".join(row) for row in answer["data"]]


@task(
    task_config=DatabricksV2(
        databricks_conf={
            "run_name": "report",
            "new_cluster": {"spark_version": "15.4.x-scala2.12", "node_type_id": "m5.large", "num_workers": 1},
        }
    ),
    container_image="localhost/none:1",
)
def describe(total: int, rows: List[str]) -> str:
    """Runs in Databricks, as any function may."""
    where = "in Databricks" if "DATABRICKS_SERVERLESS" in os.environ else "elsewhere"
    return f"{total}: {', '.join(rows)}, told {where}"


@workflow
def report(limit: int = 3, name: str = "sum") -> Tuple[int, List[str], str]:
    """BigQuery makes a table, Python sums it up, Snowflake calculates, Python reads that, Databricks describes it."""
    total = sum_of(table=squares(limit=limit))
    rows = rows_of(result=halves(total=total, name=name))
    return total, rows, describe(total=total, rows=rows)
