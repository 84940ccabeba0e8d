"""The client, and what flyte_backend.testing makes of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from flyte_backend import (
    BackendError,
    Blob,
    Code,
    JobFailed,
    JobState,
    JobStatus,
    NotFound,
    PluginError,
    Retry,
    SystemError_,
    UserError,
    failed,
    running,
    succeeded,
)
from flyte_backend.client import AsyncBackendClient, BackendClient, task_template
from flyte_backend.testing import RunningService, run, serve

from .plugins.anything import Anything
from .plugins.jobs import Jobs


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JOBS_FOLDER", str(tmp_path_factory.mktemp("jobs")))
        with serve(Jobs(), Anything()) as running:
            yield running


def test_a_jobs_life(service: RunningService) -> None:
    with BackendClient(service.url) as client:
        assert {p["task_type"] for p in client.plugins()} == {"square", "anything"}
        job = client.submit("square", {"x": 3, "seconds": 0.2})
        assert [seen.state for seen in job.follow(10)] == ["RUNNING", "SUCCEEDED"]
        assert job.result() == {"o0": 9} and job.log_links
        assert client.job("square", job.job_id).result() == {"o0": 9}
        job.cancel()
        assert client.execute("square", {"x": 4, "seconds": 0.0}) == {"o0": 16}
        with pytest.raises(JobFailed) as e:
            client.submit("square", {"x": 1, "fail": "because"}).result(10)
        assert (e.value.message, e.value.error_code, e.value.state) == ("because", "Asked", "FAILED")
        slow = client.submit("square", {"seconds": 60.0})
        with pytest.raises(TimeoutError):
            slow.result(0.1)
        slow.cancel()
        with pytest.raises(JobFailed) as e:
            slow.result(10)
        assert e.value.state == "ABORTED"
        with pytest.raises(NotFound, match="there is no such job"):
            client.job("square", "nope").poll()
        with pytest.raises(UserError, match="x is no integer"):
            client.submit("square", {"x": "a"})


def test_the_same_for_asyncio(service: RunningService) -> None:
    async def work() -> None:
        async with AsyncBackendClient(service.url) as client:
            assert len(await client.plugins()) == 4
            job = await client.submit("square", {"x": 3, "seconds": 0.2})
            assert [seen.state async for seen in job.follow(10)] == ["RUNNING", "SUCCEEDED"]
            assert await job.result() == {"o0": 9}
            await job.cancel()
            assert await client.execute("square", {"x": 4, "seconds": 0.0}) == {"o0": 16}
            with pytest.raises(NotFound):
                await client.job("square", "x" * 5000).poll()
            await client.job("square", "x" * 5000).cancel()

    asyncio.run(work())


def test_values_survive(service: RunningService) -> None:
    values = {"i": 1, "f": 1.5, "s": "ü", "n": None, "l": [1, 2], "d": {"a": [1]}, "b": b"\xff", "file": Blob("s3://b/f")}
    assert service.submit("anything", values).result(10) == values


def answering(*answers: httpx.Response | Exception) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    left, seen = list(answers), []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        one = left.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    return httpx.MockTransport(answer), seen


def error(status: int, code: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error_code": code, "message": "m"}, headers=headers)


@pytest.mark.parametrize(
    ("reason", "answer", "kind", "code", "after"),
    [
        ("the code decides", error(418, "DATA_LOSS"), SystemError_, Code.DATA_LOSS, 0),
        ("a code of tomorrow", error(500, "NEW"), SystemError_, Code.UNKNOWN, 0),
        ("a pause", error(429, "RESOURCE_EXHAUSTED", **{"retry-after": "7"}), Retry, Code.RESOURCE_EXHAUSTED, 7),
        ("a proxy", httpx.Response(404, text="<html>"), Retry, Code.UNAVAILABLE, 0),
        ("a gateway", httpx.Response(502, text=""), Retry, Code.UNAVAILABLE, 0),
        ("no JSON", httpx.Response(200, text="x"), SystemError_, Code.INTERNAL, 0),
        ("no object", httpx.Response(200, json=[]), SystemError_, Code.INTERNAL, 0),
        ("no state", httpx.Response(200, json={"job_state": "NEW"}), SystemError_, Code.INTERNAL, 0),
        ("nobody there", httpx.ConnectError("refused"), Retry, Code.UNAVAILABLE, 0),
    ],
)
def test_errors(reason: str, answer: Any, kind: type[BackendError], code: Code, after: float) -> None:
    transport, _ = answering(answer)
    with BackendClient("http://x", transport=transport) as client, pytest.raises(kind) as e:
        client.job("t", "1").poll()
    assert (e.value.code, e.value.after) == (code, after), reason


def test_a_pause_until_a_date() -> None:
    from email.utils import formatdate

    transport, _ = answering(error(503, "UNAVAILABLE", **{"retry-after": formatdate(time.time() + 60, usegmt=True)}))
    with BackendClient("http://x", transport=transport) as client, pytest.raises(Retry) as e:
        client.job("t", "1").poll()
    assert 50 < e.value.after <= 60


def test_outages_are_waited_out_and_errors_are_not() -> None:
    done = httpx.Response(200, json={"job_state": "SUCCEEDED"})
    transport, seen = answering(httpx.ConnectError("x"), error(503, "UNAVAILABLE"), httpx.Response(502), done)
    with BackendClient("http://x", transport=transport, token=lambda: "t1") as client:
        assert client.job("t", "1").result(20) == {}
    assert len(seen) == 4 and {r.headers["authorization"] for r in seen} == {"Bearer t1"}
    transport, seen = answering(error(500, "INTERNAL"), done)
    with BackendClient("http://x", transport=transport) as client, pytest.raises(SystemError_):
        client.job("t", "1").result(20)


def test_every_submission_has_a_key_of_its_own() -> None:
    created = [httpx.Response(200, json={"job_id": "1"}) for _ in range(3)]
    transport, seen = answering(*created)
    with BackendClient("http://x", transport=transport) as client:
        client.submit("a/b", {"x": 1}, custom={"c": 1})
        client.submit("t", template=task_template("t"), custom={"c": 1})
        client.submit("t", idempotency_key="mine", metadata={"namespace": "n"})
    keys = [r.headers["idempotency-key"] for r in seen]
    assert len(set(keys)) == 3 and len(keys[0]) == 64 and keys[2] == "mine"
    assert seen[0].url.raw_path == b"/plugins/v1/a%2Fb/v1"
    body = json.loads(seen[0].content)
    assert body["template"]["custom"] == {"c": 1} == json.loads(seen[1].content)["template"]["custom"]
    assert body["template"]["interface"]["inputs"]["variables"] == {"x": {"type": {"simple": "INTEGER"}}}


def test_as_notebooks_show_it(service: RunningService) -> None:
    class Plugin(Anything):
        async def poll(self, job_id: str) -> JobStatus:
            if job_id == "bad":
                return failed("<script>", log_links={"evil": "javascript:alert(1)", "good": "https://x/?a&b"})
            return succeeded({"o<0>": "<b>"})

    with serve(Plugin()) as serving:
        bad, good = serving.client.job("anything", "bad"), serving.client.job("anything", "good")
        bad.poll()
        good.poll()
        shown = bad._repr_html_()
        assert "<script>" not in shown and "&lt;script&gt;" in shown and "FAILED" in shown
        assert 'href="https://x/?a&amp;b"' in shown and "javascript:" not in shown
        assert "Output o&lt;0&gt;" in good._repr_html_() and "<b>'" not in good._repr_html_()
        assert repr(bad) == "<Job anything 'bad' FAILED: <script>>"


# ---- flyte_backend.testing


@pytest.mark.parametrize("over_http", [False, True])
def test_run(over_http: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBS_FOLDER", str(tmp_path))
    assert run(Jobs(), {"x": 5}, over_http=over_http) == {"o0": 25}
    with pytest.raises(JobFailed, match="because"):
        run(Jobs(), {"fail": "because"}, over_http=over_http)
    with pytest.raises(UserError, match="x is no integer"):
        run(Jobs(), {"x": "a"}, over_http=over_http)
    with pytest.raises(TimeoutError, match="the job did not end in time; at last: RUNNING"):
        run(Jobs(), {"seconds": 60.0}, timeout=0.1, over_http=over_http)
    assert any("deleted" in file.read_text() for file in tmp_path.iterdir()), "it was deleted all the same"


@pytest.mark.parametrize("over_http", [False, True])
def test_run_in_a_notebook(over_http: bool) -> None:
    """Where a loop runs already."""

    async def cell() -> dict[str, Any]:
        return run(Jobs(), {"x": 5}, over_http=over_http)

    assert asyncio.run(cell()) == {"o0": 25}


def test_serve_tells_what_is_wrong() -> None:
    with pytest.raises(PluginError, match="there is no plugin to serve"), serve():
        pass

    class Plugin(Anything):
        def configure(self) -> None:
            raise OSError("no warehouse")

    with pytest.raises(PluginError, match="cannot be configured: OSError: no warehouse"), serve(Plugin()):
        pass


def test_configure_and_close_run_once() -> None:
    told = []

    class Plugin(Anything):
        async def configure(self, secrets: Any) -> None:
            told.append("configure")

        def close(self) -> None:
            told.append("close")

    with serve(Plugin()) as service:
        service.submit("anything").result(5)
    assert told == ["configure", "close"]


def test_fixtures(
    flyte_backend_run: Callable[..., dict[str, Any]],
    flyte_backend_serve: Callable[..., RunningService],
    flyte_backend_registry: Any,
) -> None:
    assert flyte_backend_registry.plugins() == ()
    assert flyte_backend_run(Anything(), {"x": 1}) == {"x": 1}
    one, other = flyte_backend_serve(Anything()), flyte_backend_serve(Anything())
    assert one.url != other.url and one.submit("anything", {"x": 1}).result(5) == {"x": 1}


def test_states() -> None:
    assert [s.value for s in JobState if s.is_final] == ["SUCCEEDED", "FAILED", "RETRYABLE_FAILED", "ABORTED"]
    assert running("x").state is JobState.RUNNING
