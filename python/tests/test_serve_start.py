"""How flyte-backend-serve starts: what it refuses, and how plugins are found."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from .conftest import Start, eventually

PLUGINS = ("--plugins", "tests.plugins.jobs:Jobs")
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


def test_an_interrupt_before_it_serves_shows_no_traceback(start: Start, tmp_path: Path) -> None:
    slow = "import pathlib, time\npathlib.Path('here').touch()\ntime.sleep(60)"
    process = start("--insecure", "--plugins", "slow", wait=False, slow=slow)
    eventually((tmp_path / "here").exists)
    process.signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert not process.lines


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
