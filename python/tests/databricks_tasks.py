"""Tasks as users write them, for the Databricks tests: serialised by flytekit there, and run by the runs of
databricks_server.py."""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import os

import flytekit
from flytekit import task
from flytekit.exceptions.user import FlyteRecoverableException
from flytekitplugins.spark import Databricks, DatabricksV2, Spark

CLUSTER = {"spark_version": "13.3.x-scala2.12", "node_type_id": "m5.xlarge", "num_workers": 2}
IMAGE = "example.test/spark:1"
CLASSIC = {"run_name": "area of a circle", "new_cluster": {**CLUSTER, "spark_conf": {"a": "cluster"}}, "timeout_seconds": 600}


@task(
    task_config=DatabricksV2(databricks_conf=CLASSIC, spark_conf={"a": "task", "b": "task"}, hadoop_conf={"fs.s3a.x": "1"}),
    container_image=IMAGE,
    environment={"UNIT": "cm"},
)
def area(n: int, name: str) -> tuple[float, str]:
    assert flytekit.current_context().spark_session is None  # see databricks_server.py
    print(f"the area of {name}")
    return n * 1.5, f"{name} {os.environ['UNIT']} {flytekit.current_context().execution_id.name}"


@task(task_config=DatabricksV2(databricks_conf=CLASSIC), container_image=IMAGE)
def failing(n: int) -> int:
    if n > 0:
        raise FlyteRecoverableException("the moon is in the wrong place")
    return n


@task(task_config=DatabricksV2(databricks_conf={"environment_key": "default", "environments": []}), container_image=IMAGE)
def in_default_environment(n: int) -> int:
    return n


@task(task_config=Databricks(databricks_conf=CLASSIC, spark_conf={}, hadoop_conf={}), container_image=IMAGE)
def older(n: int) -> int:
    return n


@task(task_config=Spark(spark_conf={"a": "b"}), container_image=IMAGE)
def on_kubernetes(n: int) -> int:
    return n


@task(
    task_config=DatabricksV2(
        databricks_conf={
            "existing_cluster_id": "0101-1-abc",
            "timeout_seconds": 60.0,
            "libraries": [{"pypi": {"package": "x"}}],
        },
        applications_path="dbfs:/flyte/entrypoint.py",
    ),
    container_image=IMAGE,
)
def on_a_cluster(n: int) -> int:
    return n


@task(
    task_config=DatabricksV2(
        databricks_conf={
            "environment_key": "mine",
            "environments": [{"environment_key": "mine", "spec": {"client": "2", "dependencies": ["pandas==2.0.0"]}}],
            "git_source": {"git_url": "https://git.example/mine", "git_provider": "gitLab", "git_branch": "main"},
            "python_file": "run.py",
        },
        databricks_service_credential_provider="storage",
    ),
    container_image=IMAGE,
)
def serverless(n: int) -> int:
    return n


@task(
    task_config=DatabricksV2(
        databricks_conf={"new_cluster": CLUSTER},
        notebook_path="/Users/a@example.com/notebook",
        notebook_base_parameters={"day": "monday"},
    ),
    container_image=IMAGE,
)
def notebook() -> None: ...
