"""The REST contract, over real HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import yaml
from flyte_backend import (
    AlreadyExists,
    BackendError,
    BackendPluginBase,
    Conflict,
    DataLoss,
    FailedPrecondition,
    JobStatus,
    OutOfRange,
    Overloaded,
    PermissionDenied,
    Retry,
    ServiceOptions,
    SystemError_,
    TaskInfo,
    UserError,
    succeeded,
)
from flyte_backend._rest import PATHS
from flyte_backend.app import create_app
from flyte_backend.testing import RunningService, serve

from .conftest import ROOT, eventually
from .plugins.anything import Anything
from .plugins.jobs import Jobs

SMALL = ServiceOptions(readiness_delay=0, drain_timeout=2, max_request_bytes=2000)
CREATE = "/plugins/v1/anything/v1"
JOB: dict[str, Any] = {"template": {}}


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with serve(Anything(), Jobs(), options=SMALL) as running:
        yield running


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url) as client:
        yield client


def test_the_app_has_exactly_the_contracts_routes() -> None:
    contract = yaml.load((ROOT / "api/openapi.yaml").read_text(), yaml.CSafeLoader)
    methods = {"get", "put", "post", "delete", "head", "patch", "options", "trace"}
    want = {path: {m.upper() for m in item if m in methods} for path, item in contract["paths"].items()}
    app = create_app([Anything()])
    assert app.openapi() == contract
    has = {route.path: set(route.methods) for route in app.routes}  # type: ignore[attr-defined]
    assert has == want
    assert {path: set(handlers) for path, handlers in PATHS.items()} == want


def test_middleware_of_an_author_sees_all_calls() -> None:
    app = create_app([Anything()])
    seen = []

    @app.middleware("http")
    async def tell(request: Any, call_next: Any) -> Any:
        seen.append(request.url.path)
        return await call_next(request)

    @app.get("/mine")
    def mine() -> str:
        return "mine"

    async def work() -> None:
        await app.service.start()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            assert (await client.get("/mine")).json() == "mine"
            assert (await client.put(CREATE, json=JOB)).json()["job_id"] == "job-0"
            assert (await client.get("/nope")).json()["error_code"] == "NOT_FOUND"
        await app.service.stop()

    asyncio.run(work())
    assert seen == ["/mine", CREATE, "/nope"]


def test_the_document_and_the_page(http: httpx.Client) -> None:
    assert http.get("/openapi.json").json() == yaml.load((ROOT / "api/openapi.yaml").read_text(), yaml.CSafeLoader)
    page = http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for shown in ("anything", "square", "Gives back what it gets.", "async, sync", "logs, metrics, poll, watch"):
        assert shown in page.text
    assert "http://" not in page.text and "https://" not in page.text and "<script" not in page.text


def test_answers_do_not_wait_for_acknowledgements(http: httpx.Client) -> None:
    took = []
    for _ in range(20):
        began = time.monotonic()
        assert http.get("/healthz").status_code == 200
        took.append(time.monotonic() - began)
    assert sorted(took)[10] < 0.03, "40 ms is how long an acknowledgement is delayed"


def test_list(http: httpx.Client) -> None:
    plugins = http.get("/plugins/v1").json()["plugins"]
    assert [(p["task_type"], p["mode"]) for p in plugins] == [
        ("anything", "sync"),
        ("square", "sync"),
        ("anything", "async"),
        ("square", "async"),
    ]
    assert plugins[3] == {
        "name": "square",
        "task_type": "square",
        "plugin_version": "v1",
        "task_type_versions": [],
        "mode": "async",
        "capabilities": ["logs", "metrics", "poll", "watch"],
    }
    assert http.get("/plugins/v1/").status_code == 200
    head = http.head("/plugins/v1")
    assert head.status_code == 200 and head.content == b""


def test_large_bodies_keep_nobody_waiting() -> None:
    """The loop goes on, and so do other calls, while a large body is read."""
    literals = {f"x{i}": {"scalar": {"primitive": {"stringValue": "y" * 60}}} for i in range(40_000)}
    large = json.dumps({"template": {}, "inputs": {"literals": literals}}).encode()
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.001)
            turns += 1

    async def call() -> httpx.Response:
        app = create_app([Anything()])
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            turning = asyncio.create_task(turn())
            answer = await http.put(CREATE, content=large, headers={"content-type": "application/json"})
            turning.cancel()
            return answer

    assert asyncio.run(call()).json()["job_id"]
    assert turns > 5


def test_a_jobs_life(http: httpx.Client) -> None:
    inputs = {
        "literals": {
            "x": {"scalar": {"primitive": {"integer": "3"}}},
            "seconds": {"scalar": {"primitive": {"floatValue": 0.1}}},
        }
    }
    path = "/plugins/v1/square/v1"
    created = http.put(path, json={"template": {"type": "square"}, "inputs": inputs}, headers={"idempotency-key": "k"})
    assert created.status_code == 200 and created.json()["error_code"] == ""
    ref = {"job_id": created.json()["job_id"]}
    again = http.put(path, json={"template": {"type": "square"}, "inputs": inputs}, headers={"idempotency-key": "k"})
    assert again.json()["job_id"] == ref["job_id"]
    other = http.put(path, json={"template": {"type": "square"}}, headers={"idempotency-key": "k"})
    assert (other.status_code, other.json()["error_code"]) == (409, "ALREADY_EXISTS")
    done = eventually(lambda: (s := http.get(path, params=ref).json())["job_state"] == "SUCCEEDED" and s)
    assert done["outputs"] == {"literals": {"o0": {"scalar": {"primitive": {"integer": "9"}}}}}
    assert done["job_spec"] == {"task_type": "square", "plugin_version": "v1"}
    assert http.post(path + "/poll", json={"jobs": [ref, ref]}).json() == {"results": [{"job": done}] * 2}
    assert http.post(path + "/logs", json=ref).json()["lines"][0]["system"] is True
    query = {**ref, "queries": ["q"], "start": "2026-01-01T00:00:00Z", "step_seconds": 60}
    assert http.post(path + "/metrics", json=query).json()["metrics"][0]["name"] == "q"
    for _ in range(2):
        assert http.delete(path, params=ref).json() == {"error_code": "", "message": ""}
        assert http.post(path + "/delete", json=ref).status_code == 200
    executed = http.post(path + "/execute", json={"template": {}, "inputs": inputs})
    assert executed.json()["outputs"] == done["outputs"]


def nested(levels: int) -> str:
    return '{"template": {"custom": ' + '{"a":' * levels + "1" + "}" * levels + "}}"


# Reason, method, path, content, headers, status, what the answer says.
REFUSED: list[tuple[str, str, str, Any, dict[str, str], int, str]] = [
    ("unknown path", "GET", "/nope", None, {}, 404, "there is no path /nope; the plugins are below /plugins/v1"),
    ("path too deep", "GET", "/plugins/v1/a/v1/poll/x", None, {}, 404, "there is no path"),
    ("no task type", "GET", "/plugins/v1//v1", None, {}, 404, "there is no path"),
    ("another method", "POST", "/plugins/v1", {}, {}, 405, "/plugins/v1 has GET, HEAD, not POST"),
    ("another method of a page", "DELETE", "/healthz", None, {}, 405, "has GET, HEAD"),
    (
        "unknown task type",
        "PUT",
        "/plugins/v1/nope/v1",
        JOB,
        {},
        404,
        "this service has no plugin for task type 'nope' in version v1",
    ),
    ("unknown version", "PUT", "/plugins/v1/anything/v2", JOB, {}, 404, "in version v2"),
    ("version that is none", "PUT", "/plugins/v1/anything/-", JOB, {}, 404, "no plugin in version '-'"),
    ("no template", "PUT", CREATE, {}, {}, 400, "template is missing"),
    (
        "template of another type",
        "PUT",
        CREATE,
        {"template": {"type": "x"}},
        {},
        400,
        "template.type is 'x', and the path's is 'anything'",
    ),
    (
        "wrong field",
        "PUT",
        CREATE,
        {"template": {"metadata": {"discoverable": 1}}},
        {},
        400,
        "template.metadata.discoverable: it is a number",
    ),
    ("inputs", "PUT", CREATE, {"template": {}, "inputs": []}, {}, 400, "inputs: it is an array"),
    ("metadata", "PUT", CREATE, {"template": {}, "metadata": {"labels": 1}}, {}, 400, "metadata.labels"),
    ("output prefix", "PUT", CREATE, {"template": {}, "output_prefix": None}, {}, 400, "output_prefix is not a string"),
    ("limit of outputs", "PUT", CREATE, {"template": {}, "max_output_bytes": -1}, {}, 400, "max_output_bytes is -1"),
    (
        "fraction",
        "PUT",
        CREATE,
        {"template": {}, "max_output_bytes": 1.5},
        {},
        400,
        "max_output_bytes is 1.5, which is no integer",
    ),
    ("no JSON", "PUT", CREATE, "{", {}, 400, "the body is not JSON"),
    ("an array", "PUT", CREATE, "[]", {}, 400, "the body is not a JSON object"),
    ("null", "PUT", CREATE, "null", {}, 400, "the body is not a JSON object"),
    ("empty", "PUT", CREATE, "", {}, 400, "the body is not JSON"),
    ("something behind", "PUT", CREATE, '{"template": {}} x', {}, 400, "the body is not JSON: Extra data"),
    ("NaN", "PUT", CREATE, '{"template": {}, "max_output_bytes": NaN}', {}, 400, "NaN is no JSON"),
    ("not UTF-8", "PUT", CREATE, b'{"template": {"type": "\xff"}}', {}, 400, "the body is not UTF-8"),
    ("half a character", "PUT", CREATE, r'{"template": {"type": "\ud800"}}', {}, 400, "half a character"),
    ("twice", "PUT", CREATE, '{"template": {}, "template": {}}', {}, 400, "the body has 'template' twice"),
    ("endless number", "PUT", CREATE, '{"template": {"custom": {"a": 1e999}}}', {}, 400, "too large"),
    ("number of many digits", "PUT", CREATE, '{"max_output_bytes": ' + "9" * 1900 + "}", {}, 400, ""),
    ("a form", "PUT", CREATE, "a=b", {"content-type": "application/x-www-form-urlencoded"}, 415, "application/json is due"),
    ("no type", "PUT", CREATE, "{}", {"content-type": ""}, 415, "application/json is due"),
    (
        "another charset",
        "PUT",
        CREATE,
        "{}",
        {"content-type": "application/json; charset=latin-1"},
        415,
        "application/json is due",
    ),
    ("packed", "PUT", CREATE, "{}", {"content-encoding": "gzip"}, 415, "is encoded as 'gzip'"),
    ("too large", "PUT", CREATE, {"template": {}, "a": "x" * 3000}, {}, 413, "larger than 2000 bytes"),
    ("long key", "PUT", CREATE, JOB, {"idempotency-key": "k" * 65}, 400, "Idempotency-Key is not 1 to 64 visible"),
    ("empty key", "PUT", CREATE, JOB, {"idempotency-key": ""}, 400, "Idempotency-Key"),
    ("no job", "GET", CREATE, None, {}, 400, "job_id is missing or empty"),
    ("empty job", "DELETE", CREATE + "?job_id=", None, {}, 400, "job_id is missing or empty"),
    ("job twice", "GET", CREATE + "?job_id=a&job_id=b", None, {}, 400, "job_id stands in the query more than once"),
    ("long job", "GET", CREATE + "?job_id=" + "a" * 4096, None, {}, 400, "over 4095 bytes"),
    ("job of half a character", "GET", CREATE + "?job_id=%ff", None, {}, 400, "the query is not UTF-8"),
    ("bad escape", "GET", CREATE + "?job_id=%zz", None, {}, 400, "no two hexadecimal digits follow"),
    (
        "task type of half a character",
        "GET",
        "/plugins/v1/%ff/v1?job_id=a",
        None,
        {},
        400,
        "the task type in the path is not UTF-8",
    ),
    ("base64 that is none", "GET", CREATE + "?job_id=base64:!", None, {}, 400, "unpadded URL-safe base64 does not follow"),
    ("base64 of text", "GET", CREATE + "?job_id=base64:YQ", None, {}, 400, "is not what such an id is written as"),
    ("task type version", "GET", CREATE + "?job_id=a&task_type_version=x", None, {}, 400, "task_type_version is 'x'"),
    ("negative one", "GET", CREATE + "?job_id=a&task_type_version=-1", None, {}, 400, "task_type_version is '-1'"),
    (
        "unlisted one of a job that is there",
        "POST",
        CREATE + "/delete",
        {"job_id": "a", "task_type_version": True},
        {},
        400,
        "task_type_version is not a number",
    ),
    ("job id of a number", "POST", CREATE + "/delete", {"job_id": 1}, {}, 400, "job_id is not a string"),
    ("no jobs", "POST", CREATE + "/poll", {}, {}, 400, "jobs is missing"),
    ("none of them", "POST", CREATE + "/poll", {"jobs": []}, {}, 400, "jobs has 0 items; 1 to 1000 are due"),
    ("jobs that are none", "POST", CREATE + "/poll", {"jobs": "a"}, {}, 400, "jobs is not an array"),
    ("one of them is none", "POST", CREATE + "/poll", {"jobs": [{"job_id": "a"}, 1]}, {}, 400, "jobs[1] is not a JSON object"),
    (
        "one of them is wrong",
        "POST",
        CREATE + "/poll",
        {"jobs": [{"job_id": ""}]},
        {},
        400,
        "jobs[0].job_id is missing or empty",
    ),
    (
        "lines",
        "POST",
        CREATE + "/logs",
        {"job_id": "a", "lines": 1e7},
        {},
        400,
        "lines is 10000000.0, which is not from 0 to 1e+06",
    ),
    ("token", "POST", CREATE + "/logs", {"job_id": "a", "token": 1}, {}, 400, "token is not a string"),
    ("queries", "POST", CREATE + "/metrics", {"job_id": "a", "queries": [1]}, {}, 400, "queries is not an array of strings"),
    ("start", "POST", CREATE + "/metrics", {"job_id": "a", "start": "today"}, {}, 400, "start is 'today', which is no time"),
    ("step", "POST", CREATE + "/metrics", {"job_id": "a", "step_seconds": -1}, {}, 400, "step_seconds is -1"),
]


@pytest.mark.parametrize(
    ("method", "path", "content", "headers", "status", "says"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_refused(
    http: httpx.Client, method: str, path: str, content: Any, headers: dict[str, str], status: int, says: str
) -> None:
    if isinstance(content, dict):
        content = json.dumps(content)
    sent = {"content-type": "application/json", **headers} if content is not None else headers
    answer = http.request(method, path, content=content, headers=sent)
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    body = answer.json()
    assert (answer.status_code, set(body)) == (status, {"error_code", "message"}), body
    assert says in body["message"]
    if status == 405:
        assert answer.headers["allow"]


def test_deep_nesting_is_one_calls_error(service: RunningService) -> None:
    with serve(Anything()) as large, httpx.Client(base_url=large.url) as http:
        for levels in (900, 100_000):
            answer = http.put(CREATE, content=nested(levels), headers={"content-type": "application/json"})
            assert answer.status_code in (200, 400), levels
        assert http.get("/healthz").json() == {"status": "up"}


@pytest.mark.parametrize(
    ("reason", "task_type", "job_id"),
    [
        ("characters of URLs", "a b/c?d#e%2F", "x&y=z+ %00\u0001/../ü"),
        ("no UTF-8", "any", "base64:_w"),
        ("a prefix", "any", "base64:YmFzZTY0OmE"),
    ],
)
def test_names_travel_as_they_are(reason: str, task_type: str, job_id: str) -> None:
    seen = []

    class Plugin(BackendPluginBase):
        async def create(self, task: TaskInfo) -> bytes:
            return b""

        async def poll(self, job_id: bytes) -> JobStatus:
            seen.append(job_id)
            return succeeded()

        async def delete(self, job_id: bytes) -> None:
            seen.append(job_id)

    with serve(Plugin(task_type)) as service:
        job = service.client.job(task_type, job_id)
        job.poll()
        job.cancel()
        long = service.client.job(task_type, "y" * 5000)
        long.poll()
        long.cancel()
    raw = base64.urlsafe_b64decode(job_id[7:] + "==") if job_id.startswith("base64:") else job_id.encode()
    assert seen == [raw, raw, b"y" * 5000, b"y" * 5000], reason


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        (UserError("m"), 400, "INVALID_ARGUMENT", None),
        (FailedPrecondition("m"), 400, "FAILED_PRECONDITION", None),
        (OutOfRange("m"), 400, "OUT_OF_RANGE", None),
        (PermissionDenied("m"), 403, "PERMISSION_DENIED", None),
        (AlreadyExists("m"), 409, "ALREADY_EXISTS", None),
        (Conflict("m"), 409, "ABORTED", None),
        (Overloaded("m", after=2.1), 429, "RESOURCE_EXHAUSTED", "3"),
        (Retry("m"), 503, "UNAVAILABLE", None),
        (Retry("m", after=30), 503, "UNAVAILABLE", "30"),
        (SystemError_("m"), 500, "INTERNAL", None),
        (DataLoss("m"), 500, "DATA_LOSS", None),
        (SystemError_("ü" * 20_000), 500, "INTERNAL", None),
        (SystemError_("\ud800"), 500, "INTERNAL", None),
        (SystemError_(), 500, "INTERNAL", None),
    ],
)
def test_what_plugins_raise(error: BackendError, status: int, code: str, retry_after: str | None) -> None:
    class Plugin(Anything):
        async def poll(self, job_id: str) -> JobStatus:
            raise error

    with serve(Plugin()) as service, httpx.Client(base_url=service.url) as http:
        answer = http.get(CREATE, params={"job_id": "a"})
        assert (answer.status_code, answer.json()["error_code"], answer.headers.get("retry-after")) == (
            status,
            code,
            retry_after,
        )
        assert 0 < len(answer.json()["message"].encode()) < 16 << 10
        one = http.post(CREATE + "/poll", json={"jobs": [{"job_id": "a"}]}).json()["results"][0]["error"]
        assert (one["status"], one["error_code"], one.get("retry_after_seconds")) == (status, code, error.after or None)


def test_what_plugins_did_not_foresee_goes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    class Plugin(Anything):
        async def create(self, task: TaskInfo) -> str:
            raise ValueError("hunter2")

        def poll(self, job_id: str) -> JobStatus:  # type: ignore[override]
            raise SystemExit(3)

    with serve(Plugin()) as service, httpx.Client(base_url=service.url) as http, caplog.at_level(logging.ERROR):
        answer = http.put(CREATE, json=JOB)
        assert answer.status_code == 500
        assert answer.json() == {
            "error_code": "UNKNOWN",
            "message": "the plugin failed in create with ValueError; the service's log has the details",
        }
        assert http.get(CREATE, params={"job_id": "a"}).json()["error_code"] == "UNKNOWN"
        assert http.get("/healthz").status_code == 200
    assert "ValueError: hunter2" in caplog.text


@pytest.mark.parametrize("late", [False, True])
def test_a_plugin_that_is_cancelled_by_itself(late: bool) -> None:
    """Such as by waiting for a task that was: nobody hung up, and the time is not over."""

    class Plugin(Anything):
        async def create(self, task: TaskInfo) -> str:
            if late:
                await asyncio.sleep(0.05)
            raise asyncio.CancelledError

    with serve(Plugin()) as service, httpx.Client(base_url=service.url) as http:
        answer = http.put(CREATE, json=JOB)
        assert (answer.status_code, answer.json()["error_code"]) == (500, "UNKNOWN")
        assert "the plugin failed in create with CancelledError" in answer.json()["message"]
        assert gauge(http, "calls_in_flight") == 0


class Slow(Anything):
    """Hangs for as long as it is told, in a thread or in the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()
        self.cancelled = threading.Event()

    def poll(self, job_id: str) -> JobStatus:  # type: ignore[override]
        if job_id == "hang":
            self.go_on.wait(30)
        return succeeded()

    async def delete(self, job_id: str) -> None:
        while not self.go_on.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                self.cancelled.set()

    async def execute(self, task: TaskInfo) -> JobStatus:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return succeeded()


def gauge(http: httpx.Client, name: str) -> float:
    (line,) = (line for line in http.get("/metrics").text.splitlines() if line.startswith(f"flyte_backend_plugin_{name} "))
    return float(line.split()[1])


def test_limits_of_time_and_of_calls_at_once() -> None:
    plugin = Slow()
    options = ServiceOptions(readiness_delay=0, drain_timeout=2, timeout=0.3, max_concurrent=2)
    with serve(plugin, options=options) as service, httpx.Client(base_url=service.url) as http:
        began = time.monotonic()
        late = [http.get(CREATE, params={"job_id": "hang"}) for _ in range(2)]
        assert [(a.status_code, a.json()["error_code"]) for a in late] == [(504, "DEADLINE_EXCEEDED")] * 2
        assert time.monotonic() - began < 5
        assert gauge(http, "calls_in_flight") == 2, "they still run, though nobody waits"
        full = http.get(CREATE, params={"job_id": "quick"})
        assert (full.status_code, full.headers["retry-after"]) == (429, "1")
        assert full.json()["message"] == "the service runs 2 calls already, which is its limit"
        assert http.get("/plugins/v1").status_code == 200
        plugin.go_on.set()
        eventually(lambda: http.get(CREATE, params={"job_id": "quick"}).status_code == 200)
        eventually(lambda: gauge(http, "calls_in_flight") == 0)
        assert gauge(http, "calls_turned_away_total") >= 1


def test_an_async_method_that_swallows_cancellation_is_answered() -> None:
    plugin = Slow()
    options = ServiceOptions(readiness_delay=0, drain_timeout=2, timeout=0.3)
    with serve(plugin, options=options) as service, httpx.Client(base_url=service.url) as http:
        late = http.delete(CREATE, params={"job_id": "swallows"})
        assert (late.status_code, late.json()["error_code"]) == (504, "DEADLINE_EXCEEDED")
        assert plugin.cancelled.wait(5)
        assert gauge(http, "calls_in_flight") == 1, "it still runs, though nobody waits"
        plugin.go_on.set()
        eventually(lambda: gauge(http, "calls_in_flight") == 0)


def test_a_hung_call_affects_no_other() -> None:
    plugin = Slow()
    options = ServiceOptions(readiness_delay=0, drain_timeout=2, timeout=20)
    with serve(plugin, options=options) as service, ThreadPoolExecutor(40) as pool, httpx.Client(base_url=service.url) as http:
        jobs = [{"job_id": "hang"} for _ in range(10)]
        hung = [pool.submit(httpx.get, service.url + CREATE, params=job, timeout=30) for job in jobs]
        eventually(lambda: gauge(http, "calls_in_flight") == 10)
        for _ in range(20):
            assert http.get(CREATE, params={"job_id": "quick"}).status_code == 200
        plugin.go_on.set()
        assert {call.result().status_code for call in hung} == {200}


def test_execute_ends_when_its_caller_hangs_up() -> None:
    plugin = Slow()
    with serve(plugin) as service, httpx.Client(base_url=service.url) as http:
        with pytest.raises(httpx.ReadTimeout):
            http.post(CREATE + "/execute", json=JOB, timeout=0.3)
        assert plugin.cancelled.wait(5)
        eventually(lambda: gauge(http, "calls_in_flight") == 0)


def raw(service: RunningService, sent: bytes, timeout: float = 5) -> bytes:
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout) as s:
        s.sendall(sent)
        out = b""
        while chunk := s.recv(65536):
            out += chunk
            if b"\r\n\r\n" in out:
                break
        return out


@pytest.mark.parametrize(
    ("reason", "sent", "answer"),
    [
        ("no HTTP", b"\x16\x03\x01hello\r\n\r\n", b"HTTP/1.1 400"),
        ("one large header", b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 70_000 + b"\r\n\r\n", b"HTTP/1.1 431"),
        ("headers without an end", b"GET /healthz HTTP/1.1\r\n" + b"x: a\r\n" * 60_000, b"HTTP/1.1 431"),
        (
            "an upgrade",
            b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            b"HTTP/1.1 200",
        ),
        ("HTTP/1.0", b"GET /healthz HTTP/1.0\r\n\r\n", b"HTTP/1.1 200"),
    ],
)
def test_odd_connections(service: RunningService, http: httpx.Client, reason: str, sent: bytes, answer: bytes) -> None:
    try:
        assert raw(service, sent).startswith(answer), reason
    except (ConnectionResetError, BrokenPipeError):
        assert answer.endswith(b"431"), "it was refused before all was sent"
    assert http.get("/healthz").status_code == 200


def test_connections_on_which_nothing_comes_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flyte_backend._http.HEADER_TIMEOUT", 0.2)
    with serve(Anything()) as service:
        assert raw(service, b"") == b"", "nothing at all"
        assert raw(service, b"GET /heal") == b"", "half a request"
        assert raw(service, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_bodies_that_are_slow() -> None:
    options = ServiceOptions(readiness_delay=0, drain_timeout=2, body_timeout=0.2)
    with serve(Anything(), options=options) as service:
        head = (
            b"PUT /plugins/v1/anything/v1 HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 20\r\n\r\n{"
        )
        assert raw(service, head).startswith(b"HTTP/1.1 400")


def test_chunks_and_their_limit(http: httpx.Client) -> None:
    headers = {"content-type": "application/json; charset=UTF-8"}
    assert http.put(CREATE, content=iter([b'{"temp', b'late": {}}']), headers=headers).status_code == 200
    assert http.put(CREATE, content=(b"x" * 1000 for _ in range(5)), headers=headers).status_code == 413
    assert http.put(CREATE, json=JOB).status_code == 200, "the connection or another one goes on"


def test_metrics(http: httpx.Client) -> None:
    http.put(CREATE, json=JOB)
    http.put("/plugins/v1/nope/v1", json=JOB)
    text = http.get("/metrics")
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = text.text.splitlines()
    call = 'call="Create",task_type="anything"'
    assert any(line.startswith(f"flyte_backend_plugin_calls_total{{{call},") and 'code="OK"' in line for line in lines)
    assert any('task_type="(none)"' in line and 'code="NotFound"' in line for line in lines), "what callers send is no label"
    assert "nope" not in text.text
    counts = [
        int(line.split()[-1])
        for line in lines
        if line.startswith(f"flyte_backend_plugin_call_duration_seconds_bucket{{{call},")
    ]
    assert len(counts) == 17 and counts == sorted(counts) and counts[-1] >= 1
    assert "flyte_backend_plugin_ready 1" in lines


def test_readiness_follows_the_probes() -> None:
    class Plugin(Anything):
        well = True

        async def probe(self) -> bool:
            return self.well

    plugin = Plugin()
    options = ServiceOptions(readiness_delay=0, drain_timeout=2, probe_interval=0.05)
    with serve(plugin, options=options) as service, httpx.Client(base_url=service.url) as http:
        assert http.get("/readyz").json() == {"status": "ready"}
        plugin.well = False
        eventually(lambda: http.get("/readyz").status_code == 503)
        assert http.get("/readyz").json() == {"status": "not ready"} and gauge(http, "ready") == 0
        assert http.put(CREATE, json=JOB).status_code == 200, "calls are still answered"
        plugin.well = True
        eventually(lambda: http.get("/readyz").status_code == 200)
