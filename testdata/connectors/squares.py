"""A connector of flytekit's own kind for tests: jobs of task type conformance_square square their input x.

A job is a file in the folder that SQUARES_FOLDER names, so that any replica can answer for it; no outside service is needed.
The template's custom says how long it lasts (lasting, in seconds) and whether it fails (fail). The task type
conformance_square_now does the same in one call.
"""

import json
import os
import pathlib
import time
import uuid
from dataclasses import dataclass
from typing import Optional

from flyteidl.core.execution_pb2 import TaskExecution, TaskLog
from flytekit.extend.backend.base_connector import (
    AsyncConnectorBase,
    ConnectorRegistry,
    Resource,
    ResourceMeta,
    SyncConnectorBase,
)
from flytekit.models.literals import LiteralMap
from flytekit.models.task import TaskTemplate
from flytekit.sensor.base_sensor import BaseSensor


@dataclass
class SquareJob(ResourceMeta):
    job: str


def folder() -> pathlib.Path:
    return pathlib.Path(os.environ["SQUARES_FOLDER"])


def x_of(inputs: Optional[LiteralMap]) -> int:
    return inputs.literals["x"].scalar.primitive.integer


class SquareConnector(AsyncConnectorBase):
    name = "Square Connector"

    def __init__(self):
        super().__init__(task_type_name="conformance_square", metadata_type=SquareJob)

    async def create(self, task_template: TaskTemplate, inputs: Optional[LiteralMap] = None, **kwargs) -> SquareJob:
        custom = task_template.custom or {}
        job = SquareJob(uuid.uuid4().hex)
        state = {
            "x": x_of(inputs),
            "ends": time.time() + custom.get("lasting", 0),
            "fail": custom.get("fail", False),
        }
        unfinished = folder() / f"{job.job}.new"
        unfinished.write_text(json.dumps(state))
        unfinished.rename(folder() / f"{job.job}.json")
        return job

    async def get(self, resource_meta: SquareJob, **kwargs) -> Resource:
        state = json.loads((folder() / f"{resource_meta.job}.json").read_text())
        links = [TaskLog(name="log", uri="https://squares.example/log")]
        if state.get("deleted"):
            return Resource(phase=TaskExecution.ABORTED, message="deleted")
        if time.time() < state["ends"]:
            return Resource(phase=TaskExecution.RUNNING, message="squaring", log_links=links)
        if state["fail"]:
            return Resource(phase=TaskExecution.FAILED, message="the template says so")
        return Resource(phase=TaskExecution.SUCCEEDED, outputs={"o0": state["x"] ** 2}, log_links=links)

    async def delete(self, resource_meta: SquareJob, **kwargs):
        path = folder() / f"{resource_meta.job}.json"
        if path.name != f"{os.path.basename(resource_meta.job)}.json" or not path.exists():
            return
        state = json.loads(path.read_text())
        state["deleted"] = True
        changed = folder() / f"{resource_meta.job}.{uuid.uuid4().hex}"
        changed.write_text(json.dumps(state))
        changed.rename(path)


class SquareNowConnector(SyncConnectorBase):
    name = "Square Now Connector"

    def __init__(self):
        super().__init__(task_type_name="conformance_square_now")

    def do(self, task_template: TaskTemplate, inputs: Optional[LiteralMap] = None, **kwargs) -> Resource:
        return Resource(phase=TaskExecution.SUCCEEDED, outputs={"o0": x_of(inputs) ** 2})


class AlwaysSensor(BaseSensor):
    """A sensor of flytekit's, whose condition is met at once."""

    def __init__(self, name: str, config: Optional[dict] = None, **kwargs):
        super().__init__(name=name, **kwargs)

    async def poke(self) -> bool:
        return True


ConnectorRegistry.register(SquareConnector())
ConnectorRegistry.register(SquareNowConnector())
