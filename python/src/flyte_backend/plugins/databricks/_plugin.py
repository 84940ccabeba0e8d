"""The plugin: create, poll and delete, and polls of many runs in few calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..._errors import BackendError, ConfigurationError, NotFound, SecretError, SystemError_
from ..._plugin import BackendPluginBase, JobRef, JobStatus, Logger, LogPage, TaskInfo
from ..._secrets import Secrets
from ._api import Workspace
from ._settings import Login, Settings
from ._states import ENDED, is_own_failure, phase_of, status_of
from ._submit import request_of

# A page of runs/list. The vendor's reference says "less than 25", other texts "at most 25".
PAGE = 24
# How many runs are looked at one by one at once, of one instance.
_AT_ONCE = 16
# Paging ends when it finds less than this many runs a page, since a page is a call as well and pages come one after another…
_WORTH = 3
_GRACE = 2  # … after so many pages that may find nothing …
_PAGING_TIME = 8.0  # … and after so many seconds: there are 30 for the whole poll.
_FEW = 3
_ERROR = 4000


@dataclass(frozen=True)
class Run:
    """The job id: where a run is, and as whom to ask for it. Names only, nothing secret."""

    instance: str
    run_id: int
    auth: str = ""
    secret: str = ""
    client_id: str = ""

    @property
    def login(self) -> Login:
        return Login(self.auth, self.secret, self.client_id)


class Workspaces:
    """One client for each instance, for as long as the service lives."""

    def __init__(self) -> None:
        self._open: dict[str, Workspace] = {}

    def of(self, instance: str, settings: Settings) -> Workspace:
        if instance not in self._open:
            self._open[instance] = Workspace(instance, settings)
        return self._open[instance]

    async def close(self) -> None:
        while self._open:
            await self._open.popitem()[1].close()


class Databricks(BackendPluginBase):
    """Runs tasks of flytekitplugins-spark as one-time runs of Databricks Jobs. Its methods do not block, and may all be
    repeated."""

    def __init__(
        self, task_type: str = "databricks", *, settings: Settings | None = None, workspaces: Workspaces | None = None
    ) -> None:
        """Without ``settings``, they are read from the environment when the service starts. Plugins that share
        ``workspaces`` share connections and tokens."""
        super().__init__(task_type, name=f"Databricks ({task_type})" if task_type != "databricks" else "Databricks")
        self._given = settings
        self._settings = settings
        self._workspaces = workspaces or Workspaces()

    @property
    def settings(self) -> Settings:
        if self._settings is None:
            self._settings = Settings.from_env()
        return self._settings

    async def configure(self, secrets: Secrets, log: Logger) -> None:
        self._settings = self._given or Settings.from_env()
        if not self._settings.instances:
            raise ConfigurationError("there is no instance to run tasks at: FLYTE_DATABRICKS_INSTANCE is not set")
        try:
            for instance in sorted(self._settings.instances)[:1]:
                self._workspaces.of(instance, self._settings).check(secrets)
        except SecretError as e:
            log.warning("only tasks that name a secret will run: %s", e)

    async def close(self) -> None:
        await self._workspaces.close()

    async def create(self, task: TaskInfo) -> Run:
        """Submit a run. The same key gives the same run, which the vendor sees to."""
        settings = self.settings
        body = request_of(task, settings)
        instance, login = settings.instance_of(task.custom), settings.login_of(task.custom)
        answer = await self._workspaces.of(instance, settings).post(
            "submit", login, task.secrets, body, creates=True, once=not task.idempotency_key
        )
        run_id = answer.get("run_id")
        if not isinstance(run_id, int):
            raise SystemError_(f"{instance} answered runs/submit without a run_id")
        return Run(instance, run_id, login.auth, login.secret, login.client_id)

    async def poll(self, job_id: Run, secrets: Secrets) -> JobStatus:
        workspace = self._workspace(job_id)
        found = await workspace.get("get", job_id.login, secrets, run_id=job_id.run_id)
        return await self._told(workspace, job_id, found, secrets)

    async def delete(self, job_id: Run, secrets: Secrets) -> None:
        """Cancel the run. One that has ended stays as it is."""
        workspace = self._workspace(job_id)
        await workspace.post("cancel", job_id.login, secrets, {"run_id": job_id.run_id})

    async def logs(self, job_id: Run, secrets: Secrets) -> LogPage:
        """What the run wrote to its standard output, once it has ended; the vendor keeps its first 5 MB."""
        workspace = self._workspace(job_id)
        found = await workspace.get("get", job_id.login, secrets, run_id=job_id.run_id)
        output = await self._output(workspace, job_id, found, secrets)
        return LogPage(str(output.get("logs") or "").splitlines(keepends=True))

    async def poll_many(self, jobs: list[JobRef], secrets: Secrets) -> list[JobStatus | BackendError]:
        """Look at many runs: those that are active are taken from the vendor's list, a page of which holds 24."""
        out: list[JobStatus | BackendError] = [SystemError_("the run was not looked at")] * len(jobs)
        groups: dict[tuple[str, Login], list[int]] = {}
        for i, job in enumerate(jobs):
            groups.setdefault((job.job_id.instance, job.job_id.login), []).append(i)

        async def look(at: Sequence[int]) -> None:
            runs = [jobs[i].job_id for i in at]
            for i, result in zip(at, await self._look_at(runs, secrets), strict=True):
                out[i] = result

        await asyncio.gather(*(look(at) for at in groups.values()))
        return out

    # ---- looking

    async def _look_at(self, runs: Sequence[Run], secrets: Secrets) -> list[JobStatus | BackendError]:
        """Runs of one instance, as one login."""
        try:
            workspace = self._workspace(runs[0])
            active = await self._active(workspace, runs, secrets) if len(runs) >= _FEW else {}
        except BackendError as e:
            return [e] * len(runs)
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def one(run: Run) -> JobStatus | BackendError:
            if (found := active.get(run.run_id)) is not None:
                return status_of(found, run.instance)
            async with at_once:
                try:
                    return await self.poll(run, secrets)
                except BackendError as e:
                    return e

        return await asyncio.gather(*(one(run) for run in runs))

    async def _active(self, workspace: Workspace, runs: Sequence[Run], secrets: Secrets) -> dict[int, Mapping[str, Any]]:
        """Those of the runs that the list of active ones has. It stops when the list holds mostly those of others."""
        wanted = {run.run_id for run in runs}
        found: dict[int, Mapping[str, Any]] = {}
        query: dict[str, Any] = {"active_only": True, "run_type": "SUBMIT_RUN", "limit": PAGE}
        began, pages = time.monotonic(), 0
        while len(found) < len(wanted):
            answer = await workspace.get("list", runs[0].login, secrets, **query)
            pages += 1
            for run in answer.get("runs") or ():
                if run.get("run_id") in wanted and phase_of(run)[0]:
                    found[run["run_id"]] = run
            next_page = answer.get("next_page_token")
            if not next_page or not answer.get("has_more", True):
                break
            if len(found) < _WORTH * (pages - _GRACE) or time.monotonic() - began > _PAGING_TIME:
                break
            query["page_token"] = next_page
        # One that ended while it was listed is looked at by itself, which tells why.
        return {run_id: run for run_id, run in found.items() if phase_of(run)[0] not in ENDED}

    async def _told(self, workspace: Workspace, job: Run, found: Mapping[str, Any], secrets: Secrets) -> JobStatus:
        said = ""
        if is_own_failure(found):
            try:
                output = await self._output(workspace, job, found, secrets)
                said = "\n".join(str(part) for part in (output.get("error"), output.get("error_trace")) if part)
            except BackendError as e:
                said = f"its output cannot be read: {e}"
        return status_of(found, job.instance, said[-_ERROR:])

    async def _output(self, workspace: Workspace, job: Run, found: Mapping[str, Any], secrets: Secrets) -> dict[str, Any]:
        """The output of the run's task; of several tasks that of the one that failed. Empty when there is none."""
        tasks = found.get("tasks") or []
        failing = [task for task in tasks if phase_of(task)[1] == "FAILED"]
        run_id = (failing or tasks or [found])[0].get("run_id", job.run_id)
        try:
            return await workspace.get("get-output", job.login, secrets, run_id=run_id)
        except NotFound:
            return {}

    def _workspace(self, job: Run) -> Workspace:
        """Job ids come back from outside, so that the instance and the secret of one are checked as a task's are."""
        settings = self.settings
        if not settings.allows(job.instance):
            raise SystemError_(f"the service does not talk to instance {job.instance!r} (FLYTE_DATABRICKS_INSTANCES)")
        if not settings.may_name(job.secret):
            raise SystemError_(f"a job may not name secret {job.secret!r} (FLYTE_DATABRICKS_SECRETS)")
        return self._workspaces.of(job.instance, settings)
