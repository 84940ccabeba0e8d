"""Tasks of flytekit's BigQuery plugin, serialised by flytekit itself, and inputs as its literals."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from typing import Any

from flyte_backend import Literals
from google.protobuf import json_format

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what flytekit and its plugins bring in is not ours to mend
    from flytekit import FlyteContextManager, StructuredDataset
    from flytekit.configuration import Image, ImageConfig, SerializationSettings
    from flytekit.core.type_engine import TypeEngine
    from flytekit.models.security import Secret, SecurityContext
    from flytekit.tools.translator import get_serializable
    from flytekitplugins.bigquery import BigQueryConfig, BigQueryTask

__all__ = ["Secret", "SecurityContext", "literals_of", "query_task", "template_of"]


def query_task(
    statement: str,
    *,
    project: str = "p",
    location: str | None = None,
    config: Any = None,
    inputs: dict[str, Any] | None = None,
    output: bool = True,
    name: str = "sql.daily",
    **more: Any,
) -> BigQueryTask:
    """A BigQueryTask; ``config`` is a QueryJobConfig."""
    return BigQueryTask(
        name=name,
        query_template=statement,
        task_config=BigQueryConfig(ProjectID=project, Location=location, QueryJobConfig=config),
        inputs=inputs or {},
        output_structured_dataset_type=StructuredDataset if output else None,
        **more,
    )


def template_of(task: BigQueryTask) -> dict[str, Any]:
    """The TaskTemplate that flytekit registers, in protobuf's JSON form."""
    settings = SerializationSettings(
        project="flytesnacks", domain="development", version="v1", image_config=ImageConfig(Image("default", "image", "v1"))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec: Any = get_serializable(OrderedDict(), settings, task)
    found: dict[str, Any] = json_format.MessageToDict(spec.template.to_flyte_idl())
    return found


def literals_of(task: BigQueryTask, **values: Any) -> Literals:
    """Inputs as flytekit sends them."""
    types = task.python_interface.inputs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = TypeEngine.dict_to_literal_map(FlyteContextManager.current_context(), values, types)
    found = json_format.MessageToDict(made.to_flyte_idl())
    return Literals(found.get("literals", {}))
