"""A job of BigQuery: what its id holds, and its state as propeller knows states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from google.cloud import bigquery

from ..._errors import NotFound, UserError
from ..._plugin import JobStatus, LogLink, aborted, failed, queued, running, succeeded
from ..._types import Dataset
from ._failures import STOPPED, job_error


@dataclass(frozen=True)
class BigQueryJob:
    """The job id. Propeller stores it, so credentials are only named."""

    project: str
    #: Where the job runs, such as EU; empty when BigQuery did not tell.
    location: str
    job_id: str
    #: The task's output for the result; empty when it declares none.
    output: str = ""
    #: ``group/key`` of the secret that the task asks for; empty for application default credentials.
    secret: str = ""
    #: When BigQuery made it, in milliseconds since 1970; 0 when it did not tell. Bounds what has to be listed to find it.
    created: int = 0


def console_link(job: BigQueryJob) -> LogLink:
    """Where people see the job, its query and its result."""
    place = quote(f"bq:{job.location}:{job.job_id}", safe=":")
    project = quote(job.project, safe=":")
    return LogLink(
        "BigQuery Console", f"https://console.cloud.google.com/bigquery?project={project}&j={place}&page=queryresults"
    )


def status_of(job: BigQueryJob, found: Any) -> JobStatus:
    """The state of a job that Google's client gave. Makes no calls."""
    if not isinstance(found, bigquery.QueryJob):
        raise NotFound(f"job {job.job_id} of project {job.project} is no query")
    about: dict[str, Any] = {"log_links": (console_link(job),), "custom_info": _info(found)}
    match found.state:
        case "PENDING":
            return queued("the query waits for its turn", **about)
        case "DONE":
            return _ended(job, found, about)
        case "RUNNING":
            return running(_progress(found), **about)
        case other:
            return running(f"BigQuery calls its state {other}", **about)


def _ended(job: BigQueryJob, found: bigquery.QueryJob, about: dict[str, Any]) -> JobStatus:
    # ``errors`` without a result of error are warnings: the query went well.
    if (result := found.error_result) is not None:
        if result.get("reason") == STOPPED:
            return aborted(str(result.get("message") or "the query was cancelled"), **about)
        return failed(job_error(result), **about)
    if not job.output:
        return succeeded({}, **about)
    table = found.destination or found.ddl_target_table
    if table is None:
        text = f"the task declares the output {job.output!r}, but the query has no table for its result, as a script has none"
        return failed(UserError(text, reason="NoResult"), **about)
    return succeeded({job.output: Dataset(f"bq://{table.project}:{table.dataset_id}.{table.table_id}")}, **about)


def _progress(found: bigquery.QueryJob) -> str:
    """How far it is. BigQuery plans more work as it goes, so the second number grows as well."""
    if timeline := found.timeline:
        last = timeline[-1]
        done, active, pending = (int(n or 0) for n in (last.completed_units, last.active_units, last.pending_units))
        if total := done + active + pending:
            return f"the query runs: {done} of {total} units of work are done"
    return "the query runs"


def _info(found: bigquery.QueryJob) -> dict[str, Any]:
    """For people, beside the task. What is not known yet is left out."""
    info = {
        "job_id": found.job_id,
        "location": found.location,
        "state": found.state,
        "statement_type": found.statement_type,
        "bytes_processed": found.total_bytes_processed,
        "bytes_billed": found.total_bytes_billed,
        "slot_millis": found.slot_millis,
        "cache_hit": found.cache_hit,
        "rows_affected": found.num_dml_affected_rows,
        "created": found.created,
        "started": found.started,
        "ended": found.ended,
    }
    return {name: value for name, value in info.items() if value is not None}
