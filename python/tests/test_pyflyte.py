"""``pyflyte run`` and plain Python, in processes of their own, with tasks that go to plugins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flyte_backend._local_progress import Progress

from .conftest import PYTHON, Start, eventually

pytestmark = pytest.mark.slow

FLOW = """
from flytekit import TaskMetadata, eager, task, workflow
from flytekit.core.base_task import PythonTask
from flytekit.core.interface import Interface


class Remote(PythonTask):
    def execute(self, **values):
        raise NotImplementedError("this runs at a backend")


square = Remote("square", "square", None, Interface({"x": int, "seconds": float}, {"o0": int}))
flaky = Remote("flaky", "flaky", None, Interface({}, {"o0": int}), metadata=TaskMetadata(retries=2))


@task
def plus(x: int) -> int:
    return x + 1


@workflow
def wf(x: int, seconds: float) -> int:
    return square(x=plus(x=square(x=x, seconds=0.1)), seconds=seconds)


@eager
async def eagerly(x: int, seconds: float) -> int:
    return square(x=plus(x=square(x=x, seconds=0.1)), seconds=seconds)


@workflow
def fails() -> int:
    return flaky()
"""

FLAKY = """
from flyte_backend import BackendPluginRegistry, SyncPlugin, SystemError_, failed


class Flaky(SyncPlugin):
    task_type = "flaky"

    def execute(self, idempotency_key):
        with open("keys.txt", "a") as file:
            print(idempotency_key, file=file)
        return failed(SystemError_("the warehouse burned down"))


BackendPluginRegistry.register(Flaky())
"""


def command(folder: Path, *args: str, **env: str) -> dict[str, Any]:
    """A process in a folder with the workflows."""
    (folder / "flow.py").write_text(FLOW)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FLYTE_")}
    environment = {**clean, "PYTHONPATH": str(PYTHON), "JOBS_FOLDER": str(folder / "jobs"), "COLUMNS": "200", **env}
    return {"args": [sys.executable, *args], "cwd": folder, "env": environment, "text": True}


def pyflyte(folder: Path, *args: str, **env: str) -> dict[str, Any]:
    start = "from flytekit.clis.sdk_in_container.pyflyte import main; main()"
    return command(folder, "-c", start, "run", "flow.py", *args, **env)


def test_pyflyte_run_in_one_process(tmp_path: Path) -> None:
    run = pyflyte(tmp_path, "wf", "--x", "3", "--seconds", "0.1", FLYTE_BACKEND_PLUGINS="tests.plugins.jobs:Jobs")
    done = subprocess.run(**run, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "100"
    assert "square: RUNNING: squaring\n" in done.stderr and "square: Log: https://logs.example/" in done.stderr
    assert "plus:" not in done.stderr


def test_a_failure_ends_pyflyte_run(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(FLAKY)
    done = subprocess.run(**pyflyte(tmp_path, "fails", FLYTE_BACKEND_PLUGINS="plugin"), capture_output=True, timeout=120)
    assert done.returncode == 1
    assert "the warehouse burned down (Internal)" in done.stdout and "NotImplementedError" not in done.stdout
    keys = (tmp_path / "keys.txt").read_text().split()
    assert len(keys) == len(set(keys)) == 3
    assert "flaky: attempt 1 of 3 failed: the warehouse burned down\n" in done.stderr


@pytest.mark.parametrize(("workflow", "number", "code"), [("wf", 2, 1), ("eagerly", 2, 1), ("wf", 15, 143)])
def test_an_end_in_the_middle_deletes_the_job(start: Start, tmp_path: Path, workflow: str, number: int, code: int) -> None:
    """Ctrl-C during pyflyte run, also of what runs in a thread, and SIGTERM during plain Python, at a service."""
    service = start("--insecure", "--plugins", "tests.plugins.jobs:Jobs")
    if number == signal.SIGINT:
        run = pyflyte(tmp_path, workflow, "--x", "3", "--seconds", "300", FLYTE_BACKEND_ENDPOINT=service.url)
    else:
        (tmp_path / "script.py").write_text(
            "import flyte_backend.local, flow\n"
            f"flyte_backend.local.use(endpoint={service.url!r})\n"
            "flow.wf(x=3, seconds=300.0)\n"
        )
        run = command(tmp_path, "script.py")

    def jobs() -> list[dict[str, Any]]:
        files = [file for file in (tmp_path / "jobs").iterdir() if not file.name.startswith(".")]
        return [json.loads(file.read_text()) for file in files]

    with subprocess.Popen(**run, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            eventually(lambda: {job["x"] for job in jobs()} == {3, 10})
            process.send_signal(number)
            _, shown = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == code, shown
    assert {job["x"]: job.get("deleted") for job in jobs()} == {3: None, 10: True}
    assert "square: the job was deleted\n" in shown


@pytest.mark.parametrize(
    ("plugin", "code", "says"),
    [
        ("square", 0, "9"),
        (
            "square.py",
            1,
            "PluginError: there is no module 'square.py' on the path; a module is named as in an import, such as square",
        ),
    ],
)
def test_the_example_of_a_task_type(tmp_path: Path, plugin: str, code: int, says: str) -> None:
    """When the plugin's name is wrong, pyflyte shows no pages of this package's code."""
    example = PYTHON.parent / "examples/python"
    (tmp_path / "square_flow.py").write_text((example / "square_flow.py").read_text())
    start = "from flytekit.clis.sdk_in_container.pyflyte import main; main()"
    args = ("-c", start, "run", "square_flow.py", "area", "--side", "3")
    process = command(tmp_path, *args, PYTHONPATH=str(example), FLYTE_BACKEND_PLUGINS=plugin)
    done = subprocess.run(**process, capture_output=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert says in done.stdout.splitlines(), done.stdout
    assert "_registry.py" not in done.stdout + done.stderr


def test_what_a_plugin_fails_with_is_shown(tmp_path: Path) -> None:
    """Nobody has set up logging, which would show the record of a call as "call", and nothing else of it."""
    (tmp_path / "plugin.py").write_text(FLAKY.replace("return failed(", "raise ValueError('no bucket') # "))
    done = subprocess.run(**pyflyte(tmp_path, "fails", FLYTE_BACKEND_PLUGINS="plugin"), capture_output=True, timeout=120)
    lines = done.stderr.splitlines()
    assert any(" ERROR the plugin failed in execute task_type=flaky plugin_version=v1" in line for line in lines), lines
    assert "ValueError: no bucket" in lines and "call" not in lines


def test_it_costs_nothing_when_nothing_is_said(tmp_path: Path) -> None:
    program = "import sys, flytekit; print([m for m in sys.modules if 'flyte_backend' in m])"
    done = subprocess.run(**command(tmp_path, "-c", program), capture_output=True, timeout=120, check=True)
    assert done.stdout.strip() == "['_flyte_backend_hook']"


def test_it_says_that_flytekit_is_missing(tmp_path: Path) -> None:
    program = "import sys; sys.modules['flytekit'] = None; import flyte_backend.local as local; local.use('plugin')"
    done = subprocess.run(**command(tmp_path, "-c", program), capture_output=True, timeout=120)
    assert done.stderr.splitlines()[-1].endswith("running workflows needs flytekit: pip install 'flyte-backend[flytekit]'")


class Terminal:
    """Standard error that is a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


def test_a_terminal_has_one_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "41")
    progress = Progress("task")
    for message in ("one", "one", "two\nlines \x1b[2J" + "x" * 100):
        progress.show("RUNNING", message, {"Log": "https://logs.example/"})
    progress.end()
    clear, line = "\r\x1b[K", "task: RUNNING: two lines [2J" + "x" * 12
    assert terminal.text == f"{clear}task: Log: https://logs.example/\n{clear}task: RUNNING: one{clear}{line}\n"
