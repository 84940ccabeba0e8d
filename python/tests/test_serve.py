"""The command flyte-backend-serve, as a process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from .conftest import Authority, Start, eventually

PLUGINS = ("--plugins", "tests.plugins.jobs:Jobs")
JOB: dict[str, object] = {"template": {}}
PATH = "/plugins/v1/square/v1"
RIGHT = "a module is named as in an import"


@pytest.mark.parametrize(
    ("reason", "args", "module", "says"),
    [
        (
            "nothing said of TLS",
            [*PLUGINS],
            "",
            "refusing to serve without TLS: give --tls-cert and --tls-key, or say --insecure",
        ),
        ("both said", [*PLUGINS, "--insecure", "--client-ca", "x"], "", "--insecure and TLS exclude each other"),
        ("half a certificate", [*PLUGINS, "--tls-cert", "x"], "", "refusing to serve without TLS"),
        (
            "no such certificate",
            [*PLUGINS, "--tls-cert", "x.crt", "--tls-key", "x"],
            "",
            "the TLS file x.crt cannot be read: No such file",
        ),
        (
            "no such module",
            ["--insecure", "--plugins", "nosuch.thing"],
            "",
            "there is no module 'nosuch' on the path (the working directory",
        ),
        *(
            (
                "a file",
                ["--insecure", "--plugins", name],
                "",
                f"there is no module {name!r} on the path; {RIGHT}, such as {right}",
            )
            for name, right in (("my/mine.py", "my.mine"), ("./mine.py", "mine"), ("./mine", "mine"), ("/my/mine", "my.mine"))
        ),
        (
            "its name in the package",
            ["--insecure", "--plugins", "bigquery"],
            "",
            "there is no module 'bigquery' on the path; the plugin that comes with this package is "
            "flyte_backend.plugins.bigquery",
        ),
        ("no name", ["--insecure", "--plugins", ":x"], "", "':x' names no module; a plugin is named MODULE or MODULE:NAME"),
        (
            "an error of ours in configure",
            ["--insecure", "--plugins", "mine:Mine"],
            "from tests.plugins.jobs import Jobs\nfrom flyte_backend import ConfigurationError\n"
            "class Mine(Jobs):\n def configure(self): raise ConfigurationError('no place')",
            "mine.Mine cannot be configured: no place",
        ),
        (
            "it lacks something",
            ["--insecure", "--plugins", "mine"],
            "import nosuch",
            "plugin module 'mine' cannot be imported: it needs the module 'nosuch'",
        ),
        (
            "it raises",
            ["--insecure", "--plugins", "mine"],
            "raise ValueError('bad\\nnews')",
            "plugin module 'mine' cannot be imported: ValueError: bad news (",
        ),
        (
            "it exits",
            ["--insecure", "--plugins", "mine"],
            "raise SystemExit(0)",
            "plugin module 'mine' cannot be imported: SystemExit: 0",
        ),
        ("it registers nothing", ["--insecure", "--plugins", "mine"], "x = 1", "module 'mine' registered no plugin"),
        ("no such attribute", ["--insecure", "--plugins", "mine:nope"], "x = 1", "plugin module 'mine' has no 'nope'"),
        (
            "almost a plugin's name",
            ["--insecure", "--plugins", "mine:Jbos"],
            "from tests.plugins.jobs import Jobs\nclass Mine(Jobs): pass\nmine = Mine()",
            "plugin module 'mine' has no 'Jbos'; its plugins are Mine, mine",
        ),
        (
            "an attribute that is no plugin",
            ["--insecure", "--plugins", "mine:x"],
            "x = 1",
            "mine:x is a int, and no plugin, list of plugins, or function",
        ),
        (
            "registered twice",
            ["--insecure", *PLUGINS, "--plugins", "mine"],
            "from flyte_backend import *\nfrom tests.plugins.jobs import Jobs\nclass Mine(Jobs): pass\nBackendPluginRegistry.register(Mine())",
            "two plugins serve task type 'square' in version v1 and the same task type version: tests.plugins.jobs.Jobs and mine.Mine",
        ),
        (
            "one registered twice",
            ["--insecure", "--plugins", "mine"],
            "from flyte_backend import *\nfrom tests.plugins.jobs import Jobs\nclass Mine(Jobs): pass\n"
            "BackendPluginRegistry.register(Mine())\nBackendPluginRegistry.register(Mine())",
            "mine.Mine is registered twice for task type 'square' in version v1: register it once, or give one of them another",
        ),
        (
            "configure raises",
            ["--insecure", "--plugins", "mine:Mine"],
            "from tests.plugins.jobs import Jobs\nclass Mine(Jobs):\n def configure(self): raise OSError('no warehouse')",
            "mine.Mine cannot be configured: OSError: no warehouse",
        ),
        ("no plugin is installed", ["--insecure"], "", "there is no plugin to serve: name a module that registers one"),
        (
            "no calls at once",
            ["--insecure", *PLUGINS, "--max-concurrent", "0"],
            "",
            "max_concurrent is 0, which would answer no call",
        ),
        ("time that is none", ["--insecure", *PLUGINS, "--timeout", "nan"], "", "timeout is nan"),
        ("no workers", ["--insecure", *PLUGINS, "--workers", "0"], "", "--workers is 0; at least one is needed"),
        ("no such port", ["--insecure", *PLUGINS, "--port", "70000"], "", "--port is 70000, which is no port"),
        (
            "not this machine's address",
            ["--insecure", *PLUGINS, "--host", "192.0.2.1"],
            "",
            "cannot listen on 192.0.2.1 port 0: ",
        ),
        (
            "no such port for gRPC",
            ["--insecure", *PLUGINS, "--grpc-port", "70000"],
            "",
            "--grpc-port is 70000, which is no port",
        ),
    ],
)
def test_start_up_errors_are_one_line(start: Start, reason: str, args: list[str], module: str, says: str) -> None:
    process = start(*args, wait=False, mine=module)
    assert process.wait() == 2, reason
    eventually(lambda: process.lines and process._new.queue[-1] is None)
    told = [line for line in process.lines if not line.startswith("{")]
    assert len(told) == 1 and told[0].startswith("flyte-backend-serve: ") and says in told[0], process.lines
    assert not any("Traceback" in line for line in process.lines)


def test_a_port_that_is_taken(start: Start) -> None:
    first = start(*PLUGINS, "--insecure")
    second = start(*PLUGINS, "--insecure", "--port", str(first.about["port"]), wait=False)
    assert second.wait() == 2
    told = f"flyte-backend-serve: cannot listen on 127.0.0.1 port {first.about['port']}: Address already in use\n"
    eventually(lambda: told in second.lines)


def test_a_port_for_grpc_that_is_taken(start: Start) -> None:
    first = start(*PLUGINS, "--insecure")
    second = start(*PLUGINS, "--insecure", "--grpc-port", str(first.about["port"]), wait=False)
    assert second.wait() == 2
    eventually(
        lambda: (
            f"cannot listen on 127.0.0.1 port {first.about['port']} for gRPC: Address already in use\n" in "".join(second.lines)
        )
    )


def test_version_and_help() -> None:
    command = [sys.executable, "-m", "flyte_backend._serve"]
    assert subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout.startswith(
        "flyte-backend 0."
    )
    assert "--client-ca" in subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout


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


def test_an_interrupt_before_it_serves_shows_no_traceback(start: Start, tmp_path: Path) -> None:
    slow = "import pathlib, time\npathlib.Path('here').touch()\ntime.sleep(60)"
    process = start("--insecure", "--plugins", "slow", wait=False, slow=slow)
    eventually((tmp_path / "here").exists)
    process.signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert not process.lines


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


def trusting(authority: Authority, certificate: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.ca)
    if certificate:
        context.load_cert_chain(certificate[0], certificate[1])
    return context


def test_tls_and_client_certificates(start: Start, authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("service")
    others = Authority(tmp_path / "others")
    process = start(
        *PLUGINS,
        "--tls-cert",
        str(certificate),
        "--tls-key",
        str(key),
        "--client-ca",
        str(authority.ca),
        "--readiness-delay",
        "0",
    )
    with httpx.Client(base_url=process.url, verify=trusting(authority)) as nobody:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert nobody.get(path).status_code == 200, "kubelet and Prometheus have no certificate"
        for path in ("/plugins/v1", "/docs", "/openapi.json", PATH + "?job_id=a"):
            answer = nobody.get(path)
            assert (answer.status_code, answer.json()["error_code"]) == (401, "UNAUTHENTICATED"), path
    with httpx.Client(base_url=process.url, verify=trusting(authority, authority.issue("propeller"))) as propeller:
        assert propeller.get("/plugins/v1").status_code == 200
        assert propeller.put(PATH, json=JOB).status_code == 200
    with (
        pytest.raises(httpx.TransportError),
        httpx.Client(base_url=process.url, verify=trusting(authority, others.issue("x"))) as stranger,
    ):
        stranger.get("/healthz")
        stranger.get("/healthz")
    with pytest.raises(httpx.TransportError):
        httpx.get(process.url + "/healthz", verify=ssl.create_default_context(cafile=others.ca))
    with pytest.raises(httpx.TransportError):
        httpx.get(process.url.replace("https", "http") + "/healthz")


def serial(port: int, authority: Authority) -> int:
    import socket

    from cryptography import x509

    with (
        socket.create_connection(("127.0.0.1", port), 5) as s,
        trusting(authority).wrap_socket(s, server_hostname="127.0.0.1") as tls,
    ):
        return x509.load_der_x509_certificate(tls.getpeercert(True) or b"").serial_number


def test_certificates_are_read_again(start: Start, authority: Authority) -> None:
    certificate, key = authority.issue("service")
    process = start(*PLUGINS, "--tls-cert", str(certificate), "--tls-key", str(key))
    first = serial(process.about["port"], authority)
    key.write_text("broken")
    process.wait_for("the TLS files have changed and cannot be used")
    assert serial(process.about["port"], authority) == first
    authority.issue("service")
    process.wait_for("read the TLS files again")
    assert serial(process.about["port"], authority) > first


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


def test_workers_that_cannot_start(start: Start) -> None:
    process = start("--insecure", "--plugins", "nosuch", "--workers", "2", wait=False)
    assert process.wait() == 2
    assert any("there is no module 'nosuch'" in line for line in process.lines)


def test_ways_to_name_plugins(start: Start) -> None:
    module = """
from flyte_backend import BackendPluginRegistry
from tests.plugins.anything import Anything
from tests.plugins.jobs import Jobs
BackendPluginRegistry.register(Jobs("v2"))
def both(): return [Anything(), Jobs("v3")]
one = Jobs("v4")
class Five(Jobs):
    def __init__(self): super().__init__("v5")
"""
    named = ("mine", "mine:both", "mine:one", "mine:one", "mine:Five")
    process = start("--insecure", *(arg for name in named for arg in ("--plugins", name)), mine=module)
    found = {(p["task_type"], p["plugin_version"]) for p in httpx.get(process.url + "/plugins/v1").json()["plugins"]}
    assert found == {("square", "v2"), ("anything", "v1"), ("square", "v3"), ("square", "v4"), ("square", "v5")}


def test_installed_plugins(start: Start, tmp_path: Path) -> None:
    info = tmp_path / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[flyte_backend.plugins]\na = mine\nb = mine:Second\n")
    module = "from flyte_backend import *\nfrom tests.plugins.jobs import Jobs\nBackendPluginRegistry.register(Jobs())\nclass Second(Jobs):\n def __init__(self): super().__init__('v7')\n"
    process = start("--insecure", mine=module)
    plugins = httpx.get(process.url + "/plugins/v1").json()["plugins"]
    assert {p["plugin_version"] for p in plugins} == {"v1", "v7"}
    assert json.dumps(plugins)
