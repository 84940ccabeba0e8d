"""The plugin that `make bench-python` measures: it does nothing, so that what is measured is the service."""

from __future__ import annotations

from flyte_backend import BackendPluginBase, BackendPluginRegistry, JobRef, JobStatus, TaskInfo, running


class Constant(BackendPluginBase):
    """Every job runs for ever."""

    def __init__(self) -> None:
        super().__init__(task_type="constant")

    async def create(self, task: TaskInfo) -> str:
        return "job"

    async def poll(self, job_id: str) -> JobStatus:
        return running("running")

    async def poll_many(self, jobs: list[JobRef]) -> list[JobStatus]:
        return [running("running") for _ in jobs]

    async def delete(self, job_id: str) -> None:
        pass


BackendPluginRegistry.register(Constant())
