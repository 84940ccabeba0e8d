"""Tasks of flytekit's own plugins, as people write them, and their templates as flytekit serialises them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from flytekit import StructuredDataset, kwtypes, task
from flytekit.configuration import Image, ImageConfig, SerializationSettings
from flytekit.extras.webhook import WebhookTask
from flytekit.sensor.file_sensor import FileSensor
from flytekit.tools.translator import get_serializable
from flytekitplugins.bigquery import BigQueryConfig, BigQueryTask
from flytekitplugins.spark import DatabricksV2

SETTINGS = SerializationSettings(
    image_config=ImageConfig(Image("default", "image.example/tasks", "1")), project="p", domain="d", version="v"
)


def template_of(one: Any) -> Any:
    """Its TaskTemplate."""
    return get_serializable(OrderedDict(), SETTINGS, one).template.to_flyte_idl()


def sensor() -> Any:
    return FileSensor("connector_tasks.wait_for_file")


def webhook(url: str) -> Any:
    return WebhookTask(
        "connector_tasks.tell",
        url=url,
        headers={"X-Of": "{inputs.who}"},
        data={"text": "hello {inputs.who}"},
        dynamic_inputs={"who": str},
        show_data=True,
    )


def query(statement: str) -> Any:
    return BigQueryTask(
        "connector_tasks.query",
        query_template=statement,
        inputs=kwtypes(version=int),
        output_structured_dataset_type=StructuredDataset,
        task_config=BigQueryConfig(ProjectID="p", Location="EU"),
    )


CONF = {"run_name": "flytekit", "new_cluster": {"spark_version": "12.2", "num_workers": 2}, "timeout_seconds": 60}


@task(task_config=DatabricksV2(databricks_conf=CONF), container_image="image.example/spark:1")  # type: ignore[untyped-decorator]
def spark_job(x: int) -> int:
    return x
