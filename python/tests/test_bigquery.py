"""The BigQuery plugin with Google's own client and servers on loopback: one that runs the SQL, and one whose jobs are what a test
makes of them."""

from __future__ import annotations

import base64
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from flyte_backend import (
    AlreadyExists,
    BackendError,
    DeadlineExceeded,
    FailedPrecondition,
    JobFailed,
    JobRef,
    JobState,
    JobStatus,
    NotFound,
    Overloaded,
    PermissionDenied,
    PluginError,
    Retry,
    Secrets,
    SystemError_,
    TaskInfo,
    Unauthenticated,
    UserError,
    __version__,
)
from flyte_backend.client import BackendClient
from flyte_backend.plugins.bigquery import BigQuery, BigQueryJob
from flyte_backend.testing import run, serve
from google.cloud import bigquery

from . import bigquery_server
from .bigquery_server import Fault, Front, Memory, error
from .bigquery_tasks import Secret, SecurityContext, literals_of, query_task, template_of
from .conftest import Start, eventually


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The JSON of a service account; its token_uri is to be set."""
    return bigquery_server.service_account("")


LOG = logging.getLogger("flyte_backend.plugin")


def use(front: Front, keys: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Front:
    file = folder / "credentials.json"
    file.write_text(json.dumps({**keys, "token_uri": front.url + "/token"}))
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", front.url)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    return front


@pytest.fixture(scope="module")
def emulator() -> Iterator[Front]:
    with bigquery_server.emulator() as front:
        for project in ("p", "q"):
            reference = {"datasetReference": {"projectId": project, "datasetId": "d"}}
            status, answer = front.backend("POST", f"/bigquery/v2/projects/{project}/datasets", {}, reference)
            assert status == 200, answer
        yield front


@pytest.fixture
def sql(emulator: Front, keys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Front:
    """A server that runs the SQL."""
    emulator.reset()
    return use(emulator, keys, tmp_path, monkeypatch)


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def front(memory: Memory, keys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """A server whose jobs are in memory."""
    made = Front(memory)
    yield use(made, keys, tmp_path, monkeypatch)
    made.open.set()
    made.close()


@pytest.fixture
def plugin() -> Iterator[BigQuery]:
    made = BigQuery()
    yield made
    made.close()


def task_info(statement: str = "SELECT 1", key: str = "k", **more: Any) -> TaskInfo:
    return TaskInfo(template_of(query_task(statement, **more)), idempotency_key=key)


def create(plugin: BigQuery, *args: Any, **more: Any) -> BigQueryJob:
    return plugin.create(task_info(*args, **more), Secrets())


def poll(plugin: BigQuery, job: BigQueryJob) -> JobStatus:
    return plugin.poll(job, Secrets())


# ---- queries that run


@dataclass
class Point:
    x: int
    name: str
    tags: list[str] = field(default_factory=list)


def test_a_query_with_inputs_of_all_kinds(sql: Front) -> None:
    """By flytekit's task and literals, through the served application, with a result that is read back."""
    inputs = {
        "i": int, "f": float, "s": str, "b": bool, "t": datetime, "n": int | None, "l": list[int], "e": list[str],
        "p": Point, "d": dict,
    }  # fmt: skip
    statement = """
        SELECT @i + 1 AS i, @f AS f, CONCAT(@s, '!') AS s, @b AS b, @t AS t, @n IS NULL AS n,
               (SELECT SUM(v) FROM UNNEST(@l) AS v) AS l, ARRAY_LENGTH(@e) AS e,
               @p.x AS x, {{ .inputs.p }}.name AS name, JSON_VALUE(@d, '$.a') AS d
    """
    task = query_task(statement, location="US", inputs=inputs)
    when = datetime(2026, 2, 3, 4, 5, 6, 7, timezone.utc)
    values = {
        "i": 41, "f": 1.5, "s": "it's", "b": True, "t": when, "n": None, "l": [1, 2, 3], "e": [],
        "p": Point(7, "seven"), "d": {"a": "text"},
    }  # fmt: skip
    with serve(BigQuery()) as service:
        job = service.submit("bigquery_query_job_task", literals_of(task, **values), template=template_of(task))
        result = job.result(30)["results"]
    assert result.uri.startswith("bq://p:"), "BigQuery names a table of its own where the task names none"
    assert result.format == "", "flytekit finds the reader by bq:// alone"
    client = bigquery.Client(project="p")
    found: Any = client.get_job(json.loads(job.job_id)["job_id"], location="US")
    (row,) = found.result()
    assert dict(row) == {
        "i": 42, "f": 1.5, "s": "it's!", "b": True, "t": when, "n": True, "l": 6, "e": 0, "x": 7, "name": "seven", "d": "text",
    }  # fmt: skip


def test_output_only_when_it_is_declared(sql: Front) -> None:
    assert run(BigQuery(), template=template_of(query_task("SELECT 1", output=False)), timeout=30) == {}
    made = query_task("CREATE TABLE p.d.made AS SELECT 1 AS n")
    assert run(BigQuery(), template=template_of(made), over_http=True, timeout=30)["results"].uri == "bq://p:d.made"


def test_a_wrong_query_is_its_authors_failure(sql: Front) -> None:
    with pytest.raises(JobFailed, match="(?i)nowhere") as e:
        run(BigQuery(), template=template_of(query_task("SELECT * FROM d.nowhere")), timeout=30)
    assert (e.value.error_code, e.value.recoverable) == ("notFound", False)
    with pytest.raises((JobFailed, UserError)) as wrong:
        run(BigQuery(), template=template_of(query_task("SELEKT 1")), timeout=30)
    assert not isinstance(wrong.value, JobFailed) or wrong.value.recoverable is False


def runs(front: Front, project: str) -> int:
    """How many jobs the emulator really ran."""
    status, answer = front.backend("GET", f"/bigquery/v2/projects/{project}/jobs", {"maxResults": ["1000"]}, None)
    assert status == 200
    return len(answer["jobs"])


def test_a_lost_answer_starts_no_second_job(sql: Front) -> None:
    """The statement counts its runs, in a table."""
    run(BigQuery(), template=template_of(query_task("CREATE TABLE q.d.ran (n INT64)", project="q", output=False)), timeout=30)
    before = runs(sql, "q")
    task = template_of(query_task("INSERT INTO q.d.ran (n) VALUES (1)", project="q", output=False))
    sql.fail("insert", Fault(lost=True))
    with serve(BigQuery()) as service:
        more: dict[str, Any] = {"template": task, "idempotency_key": "attempt-0"}
        with pytest.raises(Retry, match="the query is submitted: Google does not answer"):
            service.submit("bigquery_query_job_task", **more)
        job = service.submit("bigquery_query_job_task", **more)
        assert job.result(30) == {}
        assert service.submit("bigquery_query_job_task", **more).job_id == job.job_id
    assert sql.calls["insert"] == 1 + 3
    assert runs(sql, "q") == before + 1
    client = bigquery.Client(project="q")
    assert len(list(client.list_rows("q.d.ran"))) == 1


# ---- create


def test_a_job_says_all_that_is_needed_to_find_it(front: Front, plugin: BigQuery) -> None:
    job = create(plugin, location="EU")
    assert (job.project, job.location, job.output, job.secret) == ("p", "EU", "results", "")
    assert abs(job.created / 1000 - datetime.now().timestamp()) < 60
    (body,) = front.bodies("insert")
    assert body["jobReference"] == {"projectId": "p", "jobId": job.job_id, "location": "EU"}
    assert body["configuration"]["query"] == {"query": "SELECT 1", "useLegacySql": False}
    assert body["configuration"]["labels"]["flyte-task"] == "sql-daily"
    assert f"flyte-backend/{__version__}" in front.seen[-1].agent


def test_labels_tell_whose_the_job_is(front: Front) -> None:
    """From what propeller sends of the execution."""
    execution = {"project": "sales", "domain": "production", "name": "f1"}
    identity = {"taskExecutionId": {"nodeExecutionId": {"nodeId": "n0", "executionId": execution}, "retryAttempt": 1}}
    with serve(BigQuery()) as service:
        service.submit("bigquery_query_job_task", template=template_of(query_task("SELECT 1")), metadata=identity)
    labels = front.bodies("insert")[0]["configuration"]["labels"]
    del labels["flyte-backend-request"]
    assert labels == {
        "flyte-project": "sales", "flyte-domain": "production", "flyte-execution": "f1", "flyte-node": "n0",
        "flyte-attempt": "1", "flyte-task": "sql-daily", "flyte-task-version": "v1",
    }  # fmt: skip


def test_location_may_be_left_to_bigquery(front: Front, plugin: BigQuery) -> None:
    job = create(plugin)
    assert "location" not in front.bodies("insert")[0]["jobReference"]
    assert job.location == "US", "it tells where it put the job, and there it is asked"
    poll(plugin, job)
    assert front.seen[-1].query["location"] == ["US"]


def test_settings_arrive(front: Front, plugin: BigQuery) -> None:
    config = bigquery.QueryJobConfig(maximum_bytes_billed=10, use_query_cache=False, destination="p.d.t", priority="BATCH")
    create(plugin, config=config)
    sent = front.bodies("insert")[0]["configuration"]["query"]
    assert {k: v for k, v in sent.items() if k != "query"} == {
        "maximumBytesBilled": "10",
        "useQueryCache": False,
        "useLegacySql": False,
        "priority": "BATCH",
        "destinationTable": {"projectId": "p", "datasetId": "d", "tableId": "t"},
    }


def test_the_same_key_is_the_same_job(front: Front, plugin: BigQuery, memory: Memory) -> None:
    first = create(plugin, location="EU")
    assert create(plugin, location="EU") == first
    assert create(BigQuery(), location="EU") == first, "a service that was started anew knows no less"
    assert create(plugin, key="other", location="EU") != first
    assert len(memory.jobs) == 2


def test_without_a_key_each_is_another_job(front: Front, plugin: BigQuery, memory: Memory) -> None:
    assert create(plugin, key="") != create(plugin, key="")
    assert len(memory.jobs) == 2


def test_a_job_that_is_there_is_found_without_its_location(front: Front, plugin: BigQuery, memory: Memory) -> None:
    """BigQuery tells it, and asks for it where it is neither US nor EU."""
    job = create(plugin)
    ((key, found),) = memory.jobs.items()
    found["jobReference"]["location"] = "europe-west3"
    front.fail("insert", Fault(409, error(409, "duplicate", f"Already Exists: Job p:europe-west3.{job.job_id}")))
    assert create(plugin).location == "europe-west3"
    assert front.seen[-1].query["location"] == ["europe-west3"]


def test_a_key_that_was_used_for_another_query(front: Front, plugin: BigQuery, memory: Memory) -> None:
    create(plugin, "SELECT 1")
    with pytest.raises(AlreadyExists, match="it is another one"):
        create(plugin, "SELECT 2")
    ((_, found),) = memory.jobs.items()
    del found["configuration"]["labels"]
    with pytest.raises(AlreadyExists):
        create(plugin, "SELECT 1")


def test_a_job_that_is_taken_and_not_yet_seen(front: Front, plugin: BigQuery, memory: Memory) -> None:
    job = create(plugin)
    found = memory.jobs.pop(("p", job.job_id))
    with pytest.raises(Retry, match="does not show it yet"):
        create(plugin)
    memory.jobs["p", job.job_id] = found
    assert create(plugin) == job


# ---- errors of calls


CALL_ERRORS: list[tuple[Fault, type[BackendError], float]] = [
    (Fault(400, error(400, "invalidQuery")), UserError, 0),
    (Fault(400, error(400, "invalid")), UserError, 0),
    (Fault(400, error(400, "tableUnavailable")), Retry, 0),
    (Fault(401, error(401, "authError")), Unauthenticated, 0),
    (Fault(403, error(403, "accessDenied")), PermissionDenied, 0),
    (Fault(403, error(403, "newReason")), PermissionDenied, 0),
    (Fault(403, error(403, "billingNotEnabled")), FailedPrecondition, 0),
    (Fault(403, error(403, "rateLimitExceeded")), Overloaded, 0),
    (Fault(403, error(403, "rateLimitExceeded"), {"Retry-After": "7"}), Overloaded, 7),
    (Fault(403, error(403, "quotaExceeded")), Overloaded, 60),
    (Fault(429, "busy", {"Retry-After": "9"}), Overloaded, 9),
    (Fault(408, {}), DeadlineExceeded, 0),
    (Fault(412, {}), FailedPrecondition, 0),
    (Fault(500, error(500, "internalError")), Retry, 0),
    (Fault(501, error(501, "notImplemented")), UserError, 0),
    (Fault(502, "<html>"), Retry, 0),
    (Fault(503, error(503, "backendError"), {"Retry-After": "3"}), Retry, 3),
    (Fault(504, {}), DeadlineExceeded, 0),
    (Fault(lost=True), Retry, 0),
]


@pytest.mark.parametrize("op", ["insert", "get", "cancel"])
def test_errors_of_calls(op: str, front: Front, plugin: BigQuery) -> None:
    job = create(plugin)
    calls: dict[str, Callable[[], Any]] = {
        "insert": lambda: create(plugin, key="x"),
        "get": lambda: poll(plugin, job),
        "cancel": lambda: plugin.delete(job, Secrets()),
    }
    for fault, kind, after in CALL_ERRORS:
        front.reset()
        tries = 3 if fault.status == 401 else 1  # Google's session gets another token before it gives up
        front.fail(op, *[fault] * tries)
        with pytest.raises(BackendError) as e:
            calls[op]()
        if op != "insert" and issubclass(kind, UserError):  # a job that runs outlives a right that is missing for a while
            assert type(e.value) is SystemError_, f"{fault}: {e.value!r}"
        else:
            assert type(e.value) is kind, f"{fault}: {e.value!r}"
        assert e.value.after == after
        assert front.calls[op] == tries, "propeller repeats it, and nobody else"


def test_what_is_not_there(front: Front, plugin: BigQuery) -> None:
    """A table that a create needs is the author's business; a job that a poll does not find is lost."""
    front.fail("insert", Fault(404, error(404, "notFound", "Not found: Dataset p:d")))
    with pytest.raises(FailedPrecondition, match="Not found: Dataset p:d"):
        create(plugin)
    with pytest.raises(NotFound):
        poll(plugin, BigQueryJob("p", "US", "nothing"))


def test_nobody_listens(front: Front, plugin: BigQuery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(Retry, match="Google does not answer"):
        create(plugin)


# ---- states


def ended(reason: str) -> dict[str, Any]:
    return {"state": "DONE", "errorResult": {"reason": reason, "message": "because", "location": "query"}}


STATES: list[tuple[dict[str, Any], JobState, str, bool | None]] = [
    ({"state": "PENDING"}, JobState.QUEUED, "", None),
    ({"state": "RUNNING"}, JobState.RUNNING, "", None),
    ({"state": "REWINDING"}, JobState.RUNNING, "", None),
    ({"state": "DONE"}, JobState.SUCCEEDED, "", None),
    ({"state": "DONE", "errors": [{"reason": "invalid", "message": "a warning"}]}, JobState.SUCCEEDED, "", None),
    (ended("stopped"), JobState.ABORTED, "", None),
    *[
        (ended(reason), JobState.FAILED, reason, False)
        for reason in (
            "accessDenied", "billingNotEnabled", "billingTierLimitExceeded", "blocked", "bytesBilledLimitExceeded", "duplicate",
            "invalid", "invalidQuery", "notFound", "notImplemented", "policyViolation", "resourceInUse", "resourcesExceeded",
            "responseTooLarge",
        )
    ],
    *[
        (ended(reason), JobState.FAILED, reason, True)
        for reason in (
            "backendError", "internalError", "jobBackendError", "jobInternalError", "jobRateLimitExceeded", "quotaExceeded",
            "rateLimitExceeded", "tableUnavailable", "somethingNew",
        )
    ],
]  # fmt: skip


def test_states(front: Front, memory: Memory) -> None:
    """As they are served."""
    template = template_of(query_task("SELECT 1", output=False))
    with serve(BigQuery()) as service:
        job = service.submit("bigquery_query_job_task", template=template)
        name = json.loads(job.job_id)["job_id"]
        for status, state, code, recoverable in STATES:
            memory.add("p", name, status=status)
            assert job.poll() is state, status
            assert (job.error_code, job.recoverable) == (code, recoverable), status
            if state is JobState.FAILED:
                assert job.message == "because (at query)"
            assert job.log_links == {
                "BigQuery Console": f"https://console.cloud.google.com/bigquery?project=p&j=bq:US:{name}&page=queryresults"
            }
            assert job.custom_info["state"] == status["state"]


def test_an_error_without_text(front: Front, plugin: BigQuery, memory: Memory) -> None:
    memory.add("p", "a", status={"state": "DONE", "errorResult": {}})
    status = poll(plugin, BigQueryJob("p", "US", "a"))
    assert isinstance(status.error, SystemError_) and "unknown" in str(status.error)


def test_progress_and_numbers(front: Front, plugin: BigQuery, memory: Memory) -> None:
    statistics = {
        "creationTime": "1770000000000",
        "startTime": "1770000001000",
        "totalBytesProcessed": "1234",
        "query": {
            "totalSlotMs": "5",
            "statementType": "SELECT",
            "totalBytesProcessed": "1234",
            "totalBytesBilled": "10485760",
            "cacheHit": False,
            "timeline": [
                {"elapsedMs": "1", "completedUnits": "1"},
                {"elapsedMs": "2", "completedUnits": "3", "activeUnits": "2", "pendingUnits": "5"},
            ],
        },
    }
    memory.add("p", "a", statistics=statistics)
    status = poll(plugin, BigQueryJob("p", "US", "a"))
    assert status.message == "the query runs: 3 of 10 units of work are done"
    info = {k: v for k, v in status.custom_info.items() if k not in ("created", "started")}
    assert info == {
        "job_id": "a", "location": "US", "state": "RUNNING", "statement_type": "SELECT", "bytes_processed": 1234,
        "bytes_billed": 10485760, "cache_hit": False, "slot_millis": 5,
    }  # fmt: skip


def test_results(front: Front, plugin: BigQuery, memory: Memory) -> None:
    job = BigQueryJob("p", "US", "a", "results")
    table = {"projectId": "p", "datasetId": "d", "tableId": "t"}
    memory.add("p", "a", "DONE", configuration={"query": {"query": "", "destinationTable": table}})
    assert poll(plugin, job).outputs["results"].uri == "bq://p:d.t"
    memory.add("p", "a", "DONE", statistics={"query": {"statementType": "CREATE_TABLE", "ddlTargetTable": table}})
    assert poll(plugin, job).outputs["results"].uri == "bq://p:d.t"
    memory.add("p", "a", "DONE", statistics={"query": {"statementType": "SCRIPT"}})
    status = poll(plugin, job)
    assert isinstance(status.error, UserError) and "no table for its result" in str(status.error)
    memory.add("p", "a", "DONE", configuration={"load": {}})
    with pytest.raises(NotFound, match="is no query"):
        poll(plugin, job)


def test_delete(front: Front, memory: Memory) -> None:
    """It cancels. Again, of a job that ended, and of one that nobody knows, it is a success."""
    with serve(BigQuery()) as service:
        job = service.submit("bigquery_query_job_task", template=template_of(query_task("SELECT 1")))
        job.cancel()
        job.cancel()
        assert job.poll() is JobState.ABORTED
        assert "User requested cancellation" in job.message
        assert front.calls["cancel"] == 2
        memory.jobs.clear()
        job.cancel()


# ---- many jobs


def test_a_thousand_running_jobs_cost_a_handful_of_calls(front: Front, plugin: BigQuery, memory: Memory) -> None:
    begin = datetime.now().timestamp() * 1000
    jobs = []
    for i in range(1000):
        memory.add("p", f"j{i}", "PENDING" if i % 100 == 0 else "RUNNING")
        jobs.append(JobRef(BigQueryJob("p", "US", f"j{i}", "results", created=int(begin))))
    for i in range(500):  # of other people
        memory.add("p", f"other{i}")
    table = {"projectId": "p", "datasetId": "d", "tableId": "t"}
    memory.add("p", "j3", "DONE", configuration={"query": {"query": "", "destinationTable": table}})
    memory.add("p", "j4", status=ended("invalidQuery"))
    del memory.jobs["p", "j5"]
    memory.page = 400  # BigQuery's pages have as many as it likes
    plugin.poll(jobs[0].job_id, Secrets())  # gets the token
    front.reset()
    found = plugin.poll_many(jobs, Secrets(), LOG)
    assert dict(front.calls) == {"list": 1 + 4, "get": 3}
    lists = [seen.query for seen in front.seen if seen.op == "list"]
    assert [one["stateFilter"][0] for one in lists] == ["pending"] + ["running"] * 4
    assert all(int(one["minCreationTime"][0]) <= begin for one in lists)
    states = [one.state if isinstance(one, JobStatus) else type(one) for one in found]
    assert states[:6] == [
        JobState.QUEUED, JobState.RUNNING, JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED, NotFound,
    ]  # fmt: skip
    assert states[6:] == [JobState.QUEUED if i % 100 == 0 else JobState.RUNNING for i in range(6, 1000)]
    assert isinstance(found[3], JobStatus) and found[3].outputs["results"].uri == "bq://p:d.t"


def test_many_jobs_are_served(front: Front, memory: Memory) -> None:
    """Through the route that propeller calls, for jobs of two projects; few of a project are asked for one by one."""
    with serve(BigQuery()) as service:
        jobs = [
            service.submit("bigquery_query_job_task", template=template_of(query_task("SELECT 1", project=project)))
            for project in ("p", "p", "p", "p", "q", "q")
        ]
        front.reset()
        body = {"jobs": [{"job_id": job.job_id} for job in jobs]}
        answer = service.client._call("POST", "/plugins/v1/bigquery_query_job_task/v1/poll", json=body)
    assert [one["job"]["job_state"] for one in answer["results"]] == ["QUEUED"] * 6
    assert dict(front.calls) == {"list": 1, "get": 2}


def test_who_may_not_list_looks_at_each(front: Front, plugin: BigQuery, memory: Memory) -> None:
    jobs = [JobRef(BigQueryJob("p", "US", f"j{i}")) for i in range(100)]
    for i in range(100):
        memory.add("p", f"j{i}")
    front.fail("list", Fault(403, error(403, "accessDenied")))
    front.delay = 0.05
    found = plugin.poll_many(jobs, Secrets(), LOG)
    assert [one.state for one in found if isinstance(one, JobStatus)] == [JobState.RUNNING] * 100
    assert (front.calls["list"], front.calls["get"]) == (1, 100)
    assert 4 <= front.most <= 16, "some at a time"


def test_a_list_that_fails_is_each_jobs_error(front: Front, plugin: BigQuery) -> None:
    front.fail("list", Fault(503, error(503, "backendError")))
    found = plugin.poll_many([JobRef(BigQueryJob("p", "US", f"j{i}")) for i in range(10)], Secrets(), LOG)
    assert [type(one) for one in found] == [Retry] * 10
    assert front.calls["get"] == 0, "BigQuery is not asked ten times more when it does not answer"


def test_no_page_is_fetched_in_vain(front: Front, plugin: BigQuery, memory: Memory) -> None:
    for i in range(4):
        memory.add("p", f"j{i}", "PENDING")
    for i in range(60):
        memory.add("p", f"other{i}", "PENDING")
    memory.page = 4
    plugin.poll_many([JobRef(BigQueryJob("p", "US", f"j{i}")) for i in range(4)], Secrets(), LOG)
    assert (front.calls["list"], front.calls["get"]) == (1, 0)


def test_a_job_that_ends_while_it_is_listed(front: Front, plugin: BigQuery, memory: Memory) -> None:
    """The list does not say why it failed, so it is asked for."""
    for i in range(4):
        memory.add("p", f"j{i}", status=ended("invalidQuery"))
    listed = [{**job, "status": {"state": "DONE"}} for job in memory.jobs.values()]
    front.fail("list", Fault(200, {"jobs": []}), Fault(200, {"jobs": listed}))
    found = plugin.poll_many([JobRef(BigQueryJob("p", "US", f"j{i}")) for i in range(4)], Secrets(), LOG)
    assert [one.state for one in found if isinstance(one, JobStatus)] == [JobState.FAILED] * 4


def test_a_project_with_too_many_jobs_of_others(front: Front, plugin: BigQuery, memory: Memory) -> None:
    """Its pages end when asking for each is better."""
    for i in range(60):
        memory.add("p", f"other{i}")
    memory.page = 2
    for i in range(4):
        memory.add("p", f"j{i}")
    found = plugin.poll_many([JobRef(BigQueryJob("p", "US", f"j{i}")) for i in range(4)], Secrets(), LOG)
    assert [one.state for one in found if isinstance(one, JobStatus)] == [JobState.RUNNING] * 4
    assert (front.calls["list"], front.calls["get"]) == (1 + 10, 4)


# ---- clients and credentials


def test_one_client_and_one_token(front: Front, plugin: BigQuery) -> None:
    """However many calls there are, and of however many projects, at once from the very first."""
    front.delay = 0.05
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda i: create(plugin, key=str(i), project="pq"[i % 2]), range(64)))
    assert front.calls == {"token": 1, "insert": 64}
    assert {seen.token for seen in front.seen if seen.op == "insert"} == {"ya29.secret-1"}
    before = front.connections
    job = create(plugin)
    for _ in range(20):
        poll(plugin, job)
    assert front.connections == before, "there is a client, and its connections stay open"


def test_calls_do_not_block_the_loop(front: Front) -> None:
    """Ten that wait for BigQuery go on at once, and the service answers meanwhile."""
    template = template_of(query_task("SELECT 1"))
    with serve(BigQuery()) as service:
        service.submit("bigquery_query_job_task", template=template)
        front.open.clear()
        threads = [
            threading.Thread(target=lambda: service.submit("bigquery_query_job_task", template=template)) for _ in range(10)
        ]
        for thread in threads:
            thread.start()
        eventually(lambda: front.now == 10)
        assert service.client.plugins()[0]["task_type"] == "bigquery_query_job_task"
        assert front.now == 10, "none of them has ended"
        front.open.set()
        for thread in threads:
            thread.join()


def with_secret(statement: str = "SELECT 1") -> Any:
    security = SecurityContext(secrets=[Secret(group="Sales", key="account.json")])
    return template_of(query_task(statement, security_ctx=security))


def test_a_task_brings_its_credentials(
    front: Front, keys: Any, plugin: BigQuery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the JSON of a service account, in a secret; one that was replaced is used from the next call on."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    file = tmp_path / "secrets/sales/account.json"
    file.parent.mkdir(parents=True)
    secrets = Secrets(folder=tmp_path / "secrets")
    task = TaskInfo(with_secret(), idempotency_key="k")
    with pytest.raises(FailedPrecondition, match="secret account.json of group Sales is neither"):
        plugin.create(task, secrets)
    for wrong in ("no JSON: hunter2", json.dumps({"type": "authorized_user", "hunter2": 1}), '["hunter2"]'):
        file.write_text(wrong)
        with pytest.raises(FailedPrecondition, match="is not the JSON of a service account's key") as e:
            plugin.create(task, secrets)
        assert "hunter2" not in str(e.value)
    file.write_text(json.dumps({"type": "service_account", "private_key": "hunter2"}))
    with pytest.raises(FailedPrecondition, match="cannot be read") as e:
        plugin.create(task, secrets)
    assert "hunter2" not in str(e.value)
    file.write_text(json.dumps({**keys, "token_uri": front.url + "/token"}))
    job = plugin.create(task, secrets)
    assert job.secret == "Sales/account.json"
    assert front.seen[-1].token == "ya29.secret-1"
    plugin.poll(job, secrets)
    assert front.calls["token"] == 1
    file.write_text(json.dumps({**keys, "token_uri": front.url + "/token", "private_key_id": "2"}))
    plugin.poll(job, secrets)
    assert front.calls["token"] == 2


def test_without_default_credentials(
    front: Front, plugin: BigQuery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The service runs, for tasks that bring theirs."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    with serve(plugin) as service, pytest.raises(Unauthenticated, match="the service has no credentials"):
        service.submit("bigquery_query_job_task", template=template_of(query_task("SELECT 1")))
    assert "only tasks that name a secret will run" in caplog.text
    plugin.probe()


def test_secrets_that_cannot_be_asked_for(front: Front, plugin: BigQuery) -> None:
    for asked, why in (
        ([{"group": "a", "key": "b"}] * 2, "2 secrets; a query takes one"),
        ([{"key": "b"}], "without a group"),
    ):
        template = {**with_secret(), "securityContext": {"secrets": asked}}
        with pytest.raises(UserError, match=why):
            plugin.create(TaskInfo(template), Secrets())


def test_credentials_that_google_refuses(
    front: Front, keys: Any, plugin: BigQuery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They keep the service from starting; later they make it not ready. An outage does neither."""
    refused = Fault(400, {"error": "invalid_grant", "error_description": "hunter2"})
    front.fail("token", refused, refused, refused)
    with (
        pytest.raises(PluginError, match=r"BigQuery cannot be configured: .*no access token .*\(invalid_grant\)"),
        serve(plugin),
    ):
        pass
    with pytest.raises(Unauthenticated, match="invalid_grant") as e:
        create(plugin)
    assert "hunter2" not in str(e.value)
    with pytest.raises(Unauthenticated):
        plugin.probe()
    use(front, {**keys, "private_key_id": "replaced"}, tmp_path, monkeypatch)
    plugin.probe()
    assert create(plugin).job_id
    header = front.bodies("token")[-1].partition("assertion=")[2].partition(".")[0]
    assert json.loads(base64.urlsafe_b64decode(header + "=="))["kid"] == "replaced", "the file is read anew"


def test_an_outage_of_googles_tokens(
    front: Front, keys: Any, plugin: BigQuery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "away.json"
    file.write_text(json.dumps({**keys, "token_uri": "http://127.0.0.1:9/token"}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    plugin.probe()
    with pytest.raises(Retry):
        create(plugin)


def test_served_by_its_name(front: Front, start: Start, keys: Any) -> None:
    """No token and no key stands in a job id, an answer or a line of the log."""
    process = start(
        "--plugins", "flyte_backend.plugins.bigquery", "--insecure", "--log-level", "debug", "--readiness-delay", "0"
    )
    with BackendClient(process.url) as client:
        (listed,) = client.plugins()
        assert (listed["task_type"], listed["plugin_version"], listed["capabilities"]) == (
            "bigquery_query_job_task", "v1", ["poll"],
        )  # fmt: skip
        job = client.submit("bigquery_query_job_task", template=template_of(query_task("SELECT 1")))
        front.fail("get", Fault(500, error(500, "internalError")))
        with pytest.raises(Retry):
            job.poll()
        assert job.poll() is JobState.QUEUED
        job.cancel()
        shown = [job.job_id, job.message, json.dumps(job.custom_info), repr(job.log_links)]
    process.signal()
    assert process.wait() == 0
    eventually(lambda: "stopped" in process.lines[-1] or process.popen.poll() is not None)
    assert front.seen[-1].token.startswith("ya29.secret-")
    for text in ("".join(process.lines), *shown):
        assert "ya29" not in text
        assert keys["private_key"].splitlines()[1] not in text
    assert json.loads(shown[0]).keys() == asdict(BigQueryJob("", "", "")).keys()


def test_without_googles_client() -> None:
    code = "import sys; sys.modules['google.cloud'] = None; import flyte_backend.plugins.bigquery"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "PluginError: the BigQuery plugin needs google.cloud: pip install 'flyte-backend[bigquery]'" in done.stderr


def test_the_server_is_a_script() -> None:
    """As tests in other languages start it."""
    script = subprocess.Popen(
        [sys.executable, bigquery_server.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert script.stdout is not None and script.stdin is not None
    about = json.loads(script.stdout.readline())
    assert about["env"]["BIGQUERY_EMULATOR_HOST"] == about["url"]
    assert Path(about["env"]["GOOGLE_APPLICATION_CREDENTIALS"]).exists()
    script.stdin.close()
    assert script.wait(30) == 0
    script.stdout.close()
