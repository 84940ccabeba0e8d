"""Takes whatever a template, inputs and a job id may be, with every ability: what is refused is refused by the library. Its jobs
are in memory, other than a real plugin's."""

from __future__ import annotations

import itertools
from datetime import datetime, timezone

from flyte_backend import (
    BackendPluginBase,
    JobStatus,
    Literals,
    LogLine,
    LogPage,
    Metric,
    TaskInfo,
    succeeded,
)


class Anything(BackendPluginBase):
    """Gives back what it gets."""

    def __init__(self) -> None:
        super().__init__(task_type="anything")
        self.inputs: dict[str, Literals] = {}
        self.made = itertools.count()

    async def create(self, task: TaskInfo) -> str:
        job_id = f"job-{next(self.made)}"
        self.inputs[job_id] = task.literals
        return job_id

    async def poll(self, job_id: str) -> JobStatus:
        outputs = self.inputs.get(job_id, Literals())
        return succeeded(outputs, log_links={"Log": "https://logs.example/"}, custom_info={"job": job_id})

    async def delete(self, job_id: str) -> None:
        self.inputs.pop(job_id, None)

    async def execute(self, task: TaskInfo) -> JobStatus:
        return succeeded(task.literals)

    async def logs(self, job_id: str, token: str) -> LogPage:
        if token:
            return LogPage()
        return LogPage([LogLine("it began\n", datetime.fromtimestamp(1e9, timezone.utc), system=True)], next="1")

    async def metrics(self, job_id: str, queries: list[str]) -> list[Metric]:
        return [Metric(name, {"resultType": "matrix", "result": []}) for name in queries]
