"""The command flyte-backend-serve, as a process, from its first call to its end."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from .conftest import Start, eventually

PLUGINS = ("--plugins", "tests.plugins.jobs:Jobs")
JOB: dict[str, object] = {"template": {}}
PATH = "/plugins/v1/square/v1"


def test_drain(start: Start) -> None:
    """Readiness goes first, calls are answered all the same, and those under way end."""
    process = start(*PLUGINS, "--insecure", "--readiness-delay", "1", "--drain-timeout", "10")
    with httpx.Client(base_url=process.url, timeout=20) as http:
        assert http.get("/readyz").json() == {"status": "ready"}
        inputs = {"literals": {"seconds": {"scalar": {"primitive": {"floatValue": 2.0}}}}}
        answers = []
        slow = threading.Thread(
            target=lambda: answers.append(
                httpx.post(process.url + PATH + "/execute", json={**JOB, "inputs": inputs}, timeout=20)
            )
        )
        slow.start()
        eventually(lambda: "calls_in_flight 1" in http.get("/metrics").text)
        process.signal()
        process.wait_for("draining")
        began = time.monotonic()
        down = http.get("/readyz")
        assert (down.status_code, down.json()) == (503, {"status": "draining"})
        assert http.get("/healthz").status_code == 200
        assert http.put(PATH, json=JOB).status_code == 200, "balancers may not know yet"
        assert process.wait() == 0
    slow.join()
    assert answers[0].status_code == 200 and answers[0].json()["job_state"] == "SUCCEEDED"
    assert 1.0 < time.monotonic() - began < 9
    process.wait_for("drained")


HANG = """
import asyncio, threading, time
from tests.plugins.jobs import *
class Hang(Jobs):
    async def execute(self, task):
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass
    def delete(self, job_id):
        time.sleep(60)
"""


@pytest.mark.parametrize("call", ["/execute", "/delete"], ids=["in the loop", "in a thread"])
def test_calls_that_never_end_are_cut_off(start: Start, call: str) -> None:
    process = start("--insecure", "--plugins", "hang:Hang", "--readiness-delay", "0", "--drain-timeout", "1", hang=HANG)
    body = JOB if call == "/execute" else {"job_id": "a"}

    def send() -> None:
        with contextlib.suppress(httpx.TransportError):
            httpx.post(process.url + PATH + call, json=body, timeout=30)

    thread = threading.Thread(target=send)
    thread.start()
    eventually(lambda: "calls_in_flight 1" in httpx.get(process.url + "/metrics").text)
    began = time.monotonic()
    process.signal()
    assert process.wait() == 1
    assert time.monotonic() - began < 8
    process.wait_for("calls were cut off that had not ended in time")
    thread.join()


def test_a_second_signal_ends_at_once(start: Start) -> None:
    process = start(*PLUGINS, "--insecure", "--readiness-delay", "30")
    process.signal()
    process.wait_for("draining")
    process.signal(signal.SIGINT)
    assert process.wait(8) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_interrupt_does_not_wait_for_load_balancers(start: Start, workers: str) -> None:
    process = start(*PLUGINS, "--insecure", "--readiness-delay", "60", "--workers", workers, wait=False)
    for _ in range(int(workers)):
        process.wait_for("serving")
    process.signal(signal.SIGINT)
    process.wait_for("drained")
    assert process.wait(20) == 0


def test_logs(start: Start) -> None:
    process = start(*PLUGINS, "--insecure", "--log-level", "debug")
    httpx.put(process.url + PATH, json=JOB)
    line = process.wait_for("call")
    assert {k: line[k] for k in ("level", "call", "task_type", "plugin_version", "code")} == {
        "level": "DEBUG",
        "call": "Create",
        "task_type": "square",
        "plugin_version": "v1",
        "code": "OK",
    }
    httpx.get(process.url + PATH, params={"job_id": "nope"})
    line = process.wait_for("call")
    assert (line["level"], line["call"], line["code"], line["error"]) == ("INFO", "Get", "NotFound", "there is no such job")
    text = start(*PLUGINS, "--insecure", "--log-format", "text", wait=False)
    eventually(lambda: any(" INFO serving host=127.0.0.1 port=" in one for one in text.lines))


def test_workers(start: Start) -> None:
    """Several processes share the port; one that dies is replaced; all end together."""
    process = start(*PLUGINS, "--insecure", "--workers", "2", "--readiness-delay", "0", wait=False)
    process.about = {**process.wait_for("starting workers"), "tls": False}
    eventually(lambda: httpx.get(process.url + "/readyz").status_code == 200)
    eventually(lambda: len(children(process.popen.pid)) == 2)
    first = children(process.popen.pid)
    os.kill(first[0], signal.SIGKILL)
    eventually(lambda: len(set(children(process.popen.pid)) - set(first)) == 1 and first[0] not in children(process.popen.pid))
    eventually(lambda: httpx.get(process.url + "/readyz").status_code == 200)
    with contextlib.ExitStack() as stack:
        # Each connection has its own worker, sooner or later.
        for _ in range(20):
            stack.enter_context(httpx.Client(base_url=process.url)).put(PATH, json=JOB)
        counted = 'call="Create",task_type="square",plugin_version="v1",transport="rest",code="OK"} 20\n'
        eventually(lambda: all(counted in httpx.get(process.url + "/metrics").text for _ in range(10)))
    process.signal()
    assert process.wait() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in first)


def test_an_async_method_that_blocks_is_told(start: Start) -> None:
    module = (
        "import time\nfrom tests.plugins.jobs import Jobs\nclass Mine(Jobs):\n async def delete(self, job_id): time.sleep(4)\n"
    )
    process = start("--insecure", "--plugins", "mine:Mine", mine=module)
    httpx.delete(process.url + PATH, params={"job_id": "a"}, timeout=20)
    process.wait_for("no call was answered for a while: an async method of a plugin blocks; a plain one gets a thread")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
