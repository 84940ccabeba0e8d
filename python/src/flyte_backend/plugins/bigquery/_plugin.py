"""The plugin itself: create, poll and delete of queries."""

from __future__ import annotations

import re
from typing import Any

from google.api_core.exceptions import Conflict as AlreadyThere
from google.cloud import bigquery

from ..._errors import AlreadyExists, NotFound, Retry, UserError
from ..._plugin import BackendPluginBase, JobRef, JobStatus, Logger, TaskInfo
from ..._secrets import Secrets
from ._clients import ONCE, TIMEOUT, Clients
from ._configuration import REQUEST_LABEL, job_configuration, job_id_of, location_of, output_of, project_of
from ._job import BigQueryJob, status_of
from ._many import look_at_many

# How BigQuery names a job that is there already: project:location.id.
_PLACE = re.compile(r"Job [^\s]+:(?P<location>[A-Za-z0-9-]+)\.(?P<job_id>[A-Za-z0-9_-]+)")


class BigQuery(BackendPluginBase):
    """Runs the queries of ``BigQueryTask``.

    Its methods are plain ones, which run in threads, since Google's client blocks.
    """

    def __init__(self, task_type: str = "bigquery_query_job_task", version: str = "v1") -> None:
        super().__init__(task_type, version, name="BigQuery")
        self._clients = Clients()

    def configure(self, log: Logger) -> None:
        """Keeps the service from starting with default credentials that Google refuses. To have none is possible: tasks may
        bring secrets."""
        if not self._clients.check():
            log.warning("there are no application default credentials: only tasks that name a secret will run")

    def probe(self) -> None:
        """The service is not ready while Google refuses the default credentials."""
        self._clients.check()

    def close(self) -> None:
        self._clients.close()

    def create(self, task: TaskInfo, secrets: Secrets) -> BigQueryJob:
        """Starts the query under an id that the idempotency key gives, so that it starts once however often this is called."""
        project, location = project_of(task.custom), location_of(task.custom)
        output, secret = output_of(task.template), _secret_of(task.template)
        configuration = job_configuration(task)
        name = job_id_of(task.idempotency_key)
        with self._clients.use("the query is submitted", project, secret, secrets, creates=True) as client:
            try:
                found: Any = client.query(
                    configuration["query"]["query"],
                    job_config=_config(configuration),
                    job_id=name,
                    project=project,
                    location=location or None,
                    retry=ONCE,
                    job_retry=None,
                    timeout=TIMEOUT,
                )
            except AlreadyThere as e:
                found = None
                if place := _PLACE.search(str(e.message)):
                    location = location or place["location"]
        if found is None:
            found = self._begun(project, location, name, secret, secrets, configuration["labels"][REQUEST_LABEL])
        created = int(found.created.timestamp() * 1000) if found.created else 0
        return BigQueryJob(project, found.location or location, name, output, secret, created)

    def _begun(self, project: str, location: str, name: str, secret: str, secrets: Secrets, request: str) -> Any:
        """The job that an earlier call with the same key began."""
        try:
            found = self._get(BigQueryJob(project, location, name, secret=secret), secrets)
        except NotFound as e:  # it is seen a moment later than its name is taken
            raise Retry(f"BigQuery has job {name} already, and does not show it yet", after=1) from e
        if not isinstance(found, bigquery.QueryJob) or found.labels.get(REQUEST_LABEL) != request:
            raise AlreadyExists(
                f"BigQuery has a job {name} already, and it is another one: the idempotency key was used before"
            )
        return found

    def _get(self, job: BigQueryJob, secrets: Secrets) -> Any:
        with self._clients.use(f"job {job.job_id} is looked at", job.project, job.secret, secrets) as client:
            return client.get_job(job.job_id, project=job.project, location=job.location or None, retry=ONCE, timeout=TIMEOUT)

    def poll(self, job_id: BigQueryJob, secrets: Secrets) -> JobStatus:
        return status_of(job_id, self._get(job_id, secrets))

    def poll_many(self, jobs: list[JobRef], secrets: Secrets, log: Logger) -> list[JobStatus | Exception]:
        """With the calls that ``_many`` tells, in one thread and a few of its own."""
        return look_at_many([job.job_id for job in jobs], self._clients, secrets, log, lambda job: self.poll(job, secrets))

    def delete(self, job_id: BigQueryJob, secrets: Secrets) -> None:
        """Asks BigQuery to cancel it. One that ended stays as it is; NotFound counts as success."""
        with self._clients.use(f"job {job_id.job_id} is cancelled", job_id.project, job_id.secret, secrets) as client:
            client.cancel_job(
                job_id.job_id, project=job_id.project, location=job_id.location or None, retry=ONCE, timeout=TIMEOUT
            )


def _config(configuration: dict[str, Any]) -> bigquery.QueryJobConfig:
    config = bigquery.QueryJobConfig.from_api_repr(configuration)
    assert isinstance(config, bigquery.QueryJobConfig)  # its annotation names the base class
    return config


def _secret_of(template: Any) -> str:
    """``group/key`` of the secret that the task asks for (``secret_requests``), empty for none."""
    asked = template.get("securityContext", {}).get("secrets", [])
    if not asked:
        return ""
    if len(asked) > 1:
        raise UserError(f"the task asks for {len(asked)} secrets; a query takes one, the key of its service account")
    group, key = str(asked[0].get("group", "")), str(asked[0].get("key", ""))
    if not group or not key:
        raise UserError("the task asks for a secret without a group or without a key; here it has both")
    return f"{group}/{key}"
