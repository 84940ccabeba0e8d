"""Looks at many jobs with few calls: what is pending or runs comes in pages of a project's list, and only the rest is asked for
one by one.

A job that ended is on none of these pages, and is looked at by itself, once in its life: the answer about one job is what says
why it failed and where its result is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

from google.cloud import bigquery

from ..._errors import BackendError, SystemError_
from ..._plugin import JobStatus, Logger
from ..._secrets import Secrets
from ._clients import ONCE, TIMEOUT, Clients
from ._job import BigQueryJob, status_of

# How many jobs a page has, and how many pages of a state are worth it: a project may run more than Flyte's queries.
PAGE, PAGES = 1000, 10
# From how many jobs on a list, which takes two calls, is fewer calls than one for each.
LIST_FROM = 4
# How many calls go on at once for one poll of many jobs.
AT_ONCE = 16

Result = JobStatus | Exception


def look_at_many(
    jobs: Sequence[BigQueryJob], clients: Clients, secrets: Secrets, log: Logger, one: Callable[[BigQueryJob], JobStatus]
) -> list[Result]:
    """A result for each, in their order. ``one`` looks at one job. Blocks."""
    out: dict[int, Result] = {}
    groups: dict[tuple[str, str], list[int]] = {}
    for i, job in enumerate(jobs):
        groups.setdefault((job.project, job.secret), []).append(i)

    def listed(at: list[int]) -> dict[int, Result]:
        try:
            return _listed([jobs[i] for i in at], at, clients, secrets)
        except SystemError_ as e:  # to list needs a right of its own, bigquery.jobs.list
            log.warning("jobs cannot be listed, so each is looked at by itself", extra={"error": str(e)})
            return {}
        except BackendError as e:
            return dict.fromkeys(at, e)

    def single(i: int) -> Result:
        try:
            return one(jobs[i])
        except Exception as e:  # it is this job's result, and no other's
            return e

    with ThreadPoolExecutor(AT_ONCE, "bigquery") as pool:
        for found in pool.map(listed, [at for at in groups.values() if len(at) >= LIST_FROM]):
            out.update(found)
        rest = [i for i in range(len(jobs)) if i not in out]
        out.update(zip(rest, pool.map(single, rest), strict=True))
    return [out[i] for i in range(len(jobs))]


def _listed(jobs: Sequence[BigQueryJob], at: Sequence[int], clients: Clients, secrets: Secrets) -> dict[int, Result]:
    """Those of one project and one secret that have not ended, as far as they are on the pages."""
    wanted = {(job.job_id, job.location.lower()): (i, job) for i, job in zip(at, jobs, strict=True)}
    begin = min(job.created for job in jobs)
    since = datetime.fromtimestamp(begin / 1000, timezone.utc) - timedelta(seconds=1) if begin else None
    out: dict[int, Result] = {}
    with clients.use("jobs are listed", jobs[0].project, jobs[0].secret, secrets) as client:
        for state in ("pending", "running"):  # in this order: a job that begins meanwhile is on the second
            pages = client.list_jobs(
                state_filter=state, min_creation_time=since, page_size=PAGE, retry=ONCE, timeout=TIMEOUT
            ).pages
            for number, page in enumerate(pages, 1):
                for found in page:
                    place = wanted.get((found.job_id, (found.location or "").lower()))
                    if place is not None and isinstance(found, bigquery.QueryJob) and found.state != "DONE":
                        out[place[0]] = status_of(place[1], found)
                if len(out) == len(wanted) or number == PAGES:
                    break
            if len(out) == len(wanted):
                break
    return out
