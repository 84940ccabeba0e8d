"""Squares a number, and takes its time. Serve it: flyte-backend-serve --plugins square --insecure"""

import time
from dataclasses import dataclass

from flyte_backend import BackendPluginBase, BackendPluginRegistry, JobStatus, TaskInfo, UserError, running, succeeded


@dataclass
class Job:
    """The job id: all that is needed to find the job again, by any replica."""

    x: int
    until: float


class Square(BackendPluginBase):
    """Squares x."""

    def __init__(self) -> None:
        super().__init__(task_type="square", version="v1")

    async def create(self, task: TaskInfo) -> Job:
        if not isinstance(task.inputs.get("x"), int):
            raise UserError("x is missing, or no integer")
        return Job(task.inputs["x"], time.time() + task.custom.get("seconds", 1))

    async def poll(self, job_id: Job) -> JobStatus:
        if time.time() < job_id.until:
            return running(f"squaring {job_id.x}", poll_after=job_id.until - time.time())
        return succeeded({"o0": job_id.x**2})

    async def delete(self, job_id: Job) -> None:
        pass  # there is nothing to end


BackendPluginRegistry.register(Square())
