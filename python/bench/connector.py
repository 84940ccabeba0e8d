"""The same as constant.py, for flytekit's connector service, which `make bench-python` compares with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flyteidl.core.execution_pb2 import TaskExecution
from flytekit.extend.backend.base_connector import AsyncConnectorBase, ConnectorRegistry, Resource, ResourceMeta


@dataclass
class Job(ResourceMeta):
    name: str


class Constant(AsyncConnectorBase):
    name = "Constant"

    def __init__(self) -> None:
        super().__init__(task_type_name="constant", metadata_type=Job)

    async def create(self, task_template: Any, output_prefix: str, inputs: Any = None, **more: Any) -> Job:
        return Job("job")

    async def get(self, resource_meta: Job, **more: Any) -> Resource:
        return Resource(phase=TaskExecution.RUNNING, message="running")

    async def delete(self, resource_meta: Job, **more: Any) -> None:
        pass


ConnectorRegistry.register(Constant())
