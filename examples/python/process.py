"""Runs tasks that are Python functions in processes of this machine, as a cluster would in containers. For local runs only: it
keeps its processes in memory. FLYTE_BACKEND_PLUGINS=process pyflyte run …"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from flyte_backend import (
    BackendPluginBase,
    BackendPluginRegistry,
    JobStatus,
    NotFound,
    SystemError_,
    failed,
    running,
    succeeded,
)


class Process(BackendPluginBase):
    """Starts the command line that flytekit gave the task, pyflyte-execute, which writes its outputs at the output prefix."""

    def __init__(self) -> None:
        super().__init__(task_type="process")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def create(self, template: dict[str, Any], metadata: dict[str, Any], output_prefix: str) -> str:
        command, *args = template["container"]["args"]
        found = shutil.which(command, path=os.path.dirname(sys.executable)) or command
        path = os.pathsep.join(p or os.getcwd() for p in sys.path)
        environment = {**os.environ, "PYTHONPATH": path, **metadata.get("environmentVariables", {})}
        with open(Path(output_prefix, "log.txt"), "wb") as log:
            process = subprocess.Popen([found, *args], env=environment, stdout=log, stderr=subprocess.STDOUT)
        self.processes[output_prefix] = process
        return output_prefix

    def poll(self, job_id: str) -> JobStatus:
        process = self._find(job_id)
        links = {"Log": Path(job_id, "log.txt").as_uri()}
        if process.poll() is None:
            return running(f"process {process.pid}", log_links=links)
        if Path(job_id, "outputs.pb").exists() or Path(job_id, "error.pb").exists():
            return succeeded(log_links=links)  # or not: what it has written tells
        return failed(SystemError_(f"the process ended with {process.returncode}"), log_links=links)

    def delete(self, job_id: str) -> None:
        self._find(job_id).terminate()

    def _find(self, job_id: str) -> "subprocess.Popen[bytes]":
        if job_id not in self.processes:
            raise NotFound("there is no such process")
        return self.processes[job_id]


BackendPluginRegistry.register(Process())
