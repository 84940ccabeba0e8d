"""A plugin with every ability, which keeps its jobs in a folder that replicas share (JOBS_FOLDER). It squares ``x``, takes
``seconds`` for it, and fails when ``fail`` says why."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from flyte_backend import (
    AlreadyExists,
    BackendError,
    BackendPluginBase,
    JobRef,
    JobStatus,
    LogLine,
    LogLink,
    LogPage,
    Metric,
    NotFound,
    TaskInfo,
    UserError,
    aborted,
    failed,
    running,
    succeeded,
)


class Jobs(BackendPluginBase):
    """Squares a number, in its own time."""

    def __init__(self, version: str = "v1") -> None:
        super().__init__(task_type="square", version=version)
        self.folder = Path(os.environ.get("JOBS_FOLDER") or tempfile.mkdtemp(prefix="jobs"))
        self.folder.mkdir(parents=True, exist_ok=True)

    def _file(self, job_id: str) -> Path:
        if not job_id.isalnum() or len(job_id) > 64 or not job_id.isascii():
            raise NotFound("there is no such job")
        return self.folder / job_id

    def _read(self, job_id: str) -> dict[str, Any]:
        try:
            job: dict[str, Any] = json.loads(self._file(job_id).read_text())
        except FileNotFoundError:
            raise NotFound("there is no such job") from None
        return job

    def create(self, task: TaskInfo) -> str:
        x = task.inputs.get("x", 1)
        if not isinstance(x, int):
            raise UserError("x is no integer")
        job_id = hashlib.sha256((task.idempotency_key or os.urandom(16).hex()).encode()).hexdigest()
        request = json.dumps([task.template, task.literals], sort_keys=True)
        job = {
            "x": x,
            "until": time.time() + task.inputs.get("seconds", 0.2),
            "fail": task.inputs.get("fail", ""),
            "request": hashlib.sha256(request.encode()).hexdigest(),
        }
        with tempfile.NamedTemporaryFile("w", dir=self.folder, prefix=".new", delete=False) as file:
            json.dump(job, file)
        try:
            os.link(file.name, self.folder / job_id)  # only the first of many succeeds
        except FileExistsError:
            if self._read(job_id)["request"] != job["request"]:
                raise AlreadyExists("the key was used for another task") from None
        finally:
            os.unlink(file.name)
        return job_id

    def poll(self, job_id: str) -> JobStatus:
        job = self._read(job_id)
        links = [LogLink("Log", f"https://logs.example/{job_id}")]
        if job.get("deleted"):
            return aborted("somebody ended it", log_links=links)
        if time.time() < job["until"]:
            return running("squaring", log_links=links, custom_info={"x": job["x"]})
        if job["fail"]:
            return failed(UserError(job["fail"], reason="Asked"), log_links=links)
        return succeeded({"o0": job["x"] ** 2}, log_links=links)

    def delete(self, job_id: str) -> None:
        job = self._read(job_id)
        if time.time() >= job["until"] or job.get("deleted"):
            return
        with tempfile.NamedTemporaryFile("w", dir=self.folder, prefix=".new", delete=False) as file:
            json.dump({**job, "deleted": True}, file)
        os.replace(file.name, self.folder / job_id)

    def poll_many(self, jobs: list[JobRef]) -> list[JobStatus | BackendError]:
        out: list[JobStatus | BackendError] = []
        for job in jobs:
            try:
                out.append(self.poll(job.job_id))
            except BackendError as e:
                out.append(e)
        return out

    async def watch(self, job_id: str, changed: Callable[[], None]) -> None:
        while (await asyncio.to_thread(self.poll, job_id)).state == "RUNNING":
            await asyncio.sleep(0.05)
        changed()

    def logs(self, job_id: str, lines: int, token: str) -> LogPage:
        self._read(job_id)
        if token:
            return LogPage([LogLine("it ended\n")])
        return LogPage([LogLine("it began\n", datetime.now(timezone.utc), system=True)], next="1")

    def metrics(self, job_id: str, queries: list[str]) -> list[Metric]:
        self._read(job_id)
        return [Metric(name, {"resultType": "matrix", "result": []}) for name in queries or ["EXECUTION_METRIC_USED_CPU_AVG"]]

    async def execute(self, task: TaskInfo) -> JobStatus:
        await asyncio.sleep(task.inputs.get("seconds", 0.05))
        return succeeded({"o0": task.inputs.get("x", 1) ** 2})
