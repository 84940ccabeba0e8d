"""Templates and inputs as flytekit makes them, for the tests of the Snowflake plugin."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

with warnings.catch_warnings():  # flytekit's own, and those of what it imports
    warnings.simplefilter("ignore")
    from flytekit import FlyteContextManager, StructuredDataset
    from flytekit.configuration import ImageConfig, SerializationSettings
    from flytekit.core.type_engine import TypeEngine
    from flytekit.tools.translator import get_serializable
    from flytekitplugins.snowflake import SnowflakeConfig, SnowflakeTask
    from google.protobuf import json_format

from flyte_backend import Literals

from .snowflake_server import ACCOUNT, USER

IMAGES = ImageConfig.auto(img_name="example.com/image:1")
SETTINGS = SerializationSettings(project="project", domain="domain", version="v1", image_config=IMAGES)
CONFIG = {"user": USER, "account": ACCOUNT, "database": "db", "schema": "public", "warehouse": "wh"}


class Task(SnowflakeTask):  # type: ignore[misc]  # flytekit's types are unknown
    """A task type of a user's own, which adds settings."""

    more: dict[str, str] = {}

    def get_config(self, settings: SerializationSettings) -> dict[str, str]:
        return {**super().get_config(settings), **self.more}


def template(
    query: str,
    types: Mapping[str, Any] | None = None,
    *,
    output: bool = False,
    config: Mapping[str, str] | None = None,
    **settings: str,
) -> dict[str, Any]:
    """The TaskTemplate in protobuf's JSON form. ``config`` changes ``SnowflakeConfig``, ``settings`` are added to it."""
    task = Task(
        name="query",
        query_template=query,
        task_config=SnowflakeConfig(**{**CONFIG, **(config or {})}),
        inputs=OrderedDict(types or {}),
        output_schema_type=StructuredDataset if output else None,
    )
    task.more = settings
    spec = get_serializable(OrderedDict(), SETTINGS, task)
    made: dict[str, Any] = json_format.MessageToDict(spec.template.to_flyte_idl())
    return made


def literals(types: Mapping[str, Any], values: Mapping[str, Any]) -> Literals:
    """Inputs in protobuf's JSON form."""
    context = FlyteContextManager.current_context()
    made = {}
    for name, value in values.items():
        literal = TypeEngine.to_literal(context, value, types[name], TypeEngine.to_literal_type(types[name]))
        made[name] = json_format.MessageToDict(literal.to_flyte_idl())
    return Literals(made)
