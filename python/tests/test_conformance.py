"""The conformance suite, against plugins of this library as processes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, Literal

import pytest
from flyte_backend import ConfigurationError
from flyte_backend.testing import conformance

from .conftest import ROOT
from .plugins.jobs import Jobs
from .test_docs import blocks

pytestmark = pytest.mark.slow

PLUGIN = "tests.plugins.jobs:Jobs"


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The command line, built from this checkout."""
    built = tmp_path_factory.mktemp("bin") / "flyte-backend"
    subprocess.run(["go", "build", "-o", built, "./cmd/flyte-backend"], cwd=ROOT, check=True, timeout=600)
    return str(built)


@pytest.fixture
def jobs(tmp_path: Path, program: str) -> dict[str, Any]:
    return {"env": {"JOBS_FOLDER": str(tmp_path / "jobs")}, "program": program, "task_type": "square"}


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_plugin_conforms(jobs: dict[str, Any], protocol: Literal["rest", "grpc"]) -> None:
    report = conformance(
        PLUGIN,
        protocol=protocol,
        inputs={"x": 3, "seconds": 0.1, "fail": ""},
        long_inputs={"x": 3, "seconds": 600.0, "fail": ""},
        failing_inputs={"x": 3, "seconds": 0.1, "fail": "as it was told"},
        outputs={"o0": int},
        strict=True,
        **jobs,
    )
    assert report.conforms
    assert not report.of("failed")
    assert len(report.of("passed")) > 100
    # What is skipped is about what the plugin does not have, or about the other kind of credentials.
    allowed = r"metadata/serves|operations/(?!reflection)|execute/|errors/retry-after|errors/no-secrets|versions/|poll/"
    assert not [str(result) for result in report.of("skipped") if not re.match(allowed, result.case)]


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_connector_of_flytekit_conforms(jobs: dict[str, Any], protocol: Literal["rest", "grpc"]) -> None:
    jobs["task_type"] = "connector_square"
    report = conformance(
        connectors=["tests.plugins.connectors"],
        protocol=protocol,
        inputs={"x": 7, "seconds": 0.1, "fail": ""},
        long_inputs={"x": 7, "seconds": 600.0, "fail": ""},
        failing_inputs={"x": 7, "seconds": 0.1, "fail": "asked"},
        outputs={"o0": int},
        **jobs,
    )
    # flytekit's Resource has no code of an error.
    assert [result.case for result in report.of("failed")] == ["poll/failure-says-why"], "\n".join(
        map(str, report.of("failed"))
    )
    assert len(report.of("passed")) > 90


def test_synchronous_connector_of_flytekit_conforms(jobs: dict[str, Any]) -> None:
    jobs["task_type"] = "connector_square_now"
    report = conformance(
        connectors=["tests.plugins.connectors"],
        inputs={"x": 7},
        outputs={"o0": int},
        run="^(metadata|execute|errors|versions)/",
        strict=True,
        **jobs,
    )
    assert {"execute/succeeds", "execute/repeats"} <= {result.case for result in report.of("passed")}


def test_the_document(jobs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples/python")
    monkeypatch.setenv("FLYTE_BACKEND_COMMAND", jobs["program"])
    (piece,) = blocks(ROOT / "docs/conformance.md")
    found: dict[str, Any] = {}
    exec(compile(piece, "docs/conformance.md", "exec"), found)
    found["test_square_conforms"]()


def test_what_is_wrong_is_told(tmp_path: Path, jobs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "forgetful.py").write_text(FORGETFUL)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AssertionError) as raised:
        conformance("forgetful:Forgetful", inputs={}, run="^(delete|metadata)/", **jobs)
    told = str(raised.value)
    assert re.search(r"^delete/unknown, which it must: .*\(square v1\)$", told, re.MULTILINE)
    assert re.search(r"^ +sent: .*\n +got: .*\n +due: .*\n +contract: docs/contract.md#", told, re.MULTILINE)
    assert "metadata/" not in told


def test_service_that_runs(jobs: dict[str, Any], flyte_backend_serve: Any) -> None:
    service = flyte_backend_serve(Jobs())
    report = conformance(endpoint=service.url, run="^metadata/lists-plugins$", program=jobs["program"])
    assert [(result.case, result.outcome) for result in report.results] == [("metadata/lists-plugins", "passed")]


@pytest.mark.parametrize(
    ("plugins", "more", "wrong"),
    [
        ((), {}, "either the modules of plugins or the endpoint"),
        ((PLUGIN,), {"endpoint": "http://127.0.0.1:1"}, "either the modules of plugins or the endpoint"),
        ((PLUGIN,), {"protocol": "soap"}, "'soap': takes 'rest' or 'grpc'"),
        ((PLUGIN,), {"program": "no-such-program"}, "there is no no-such-program: build it"),
        ((PLUGIN,), {"program": "true"}, "true gave no report: is it the program flyte-backend"),
        ((PLUGIN,), {"inputs": {"x": 1}, "task_type": None}, "needs a template, or a task_type"),
        ((PLUGIN,), {"inputs": {"x": b"1"}}, "an input of type bytes cannot be given"),
        ((PLUGIN,), {"run": "no-such-case"}, "has an id that matches"),
        ((PLUGIN,), {"run": "("}, "--run"),
        (("no_such_module",), {}, "(?s)the service did not start: .*no_such_module"),
    ],
)
def test_bad_input(jobs: dict[str, Any], plugins: tuple[str, ...], more: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=wrong):
        conformance(*plugins, **{**jobs, **more})


def test_time_out(jobs: dict[str, Any]) -> None:
    with pytest.raises(TimeoutError, match="did not end within 3 s"):
        conformance(
            PLUGIN, inputs={"x": 3, "seconds": 600.0}, run="^create/|^poll/", flags=["--job-timeout", "10m"], timeout=3, **jobs
        )


FORGETFUL = """
from flyte_backend import BackendPluginBase, UserError, succeeded

class Forgetful(BackendPluginBase):
    def __init__(self):
        super().__init__(task_type="square")
        self.jobs = []

    async def create(self, task):
        self.jobs.append("a")
        return "a"

    async def poll(self, job_id):
        return succeeded({})

    async def delete(self, job_id):
        raise UserError("there is no such job")
"""
