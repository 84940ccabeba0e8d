"""Requests made from the contract, right and wrong ones, alone and in chains; answers are checked by it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from flyte_backend import JobStatus, NotFound
from flyte_backend.testing import serve

from .conftest import PYTHON, ROOT
from .plugins.anything import Anything

pytestmark = pytest.mark.slow

TESTS = PYTHON / "tests"


class Remembering(Anything):
    """Polls of jobs that were deleted, or never were, are refused."""

    async def poll(self, job_id: str) -> JobStatus:
        if job_id not in self.inputs:
            raise NotFound(f"there is no job {job_id!r}")
        return await super().poll(job_id)


def test_by_the_contract(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(TESTS / "schemathesis.toml"), "run"]
    checks = ["--checks", "all", "--phases", "examples,coverage,fuzzing,stateful"]
    limits = ["--max-examples", "40", "--seed", os.environ.get("SEED", "1"), "--workers", "1", "--no-color"]
    env = {**os.environ, "SCHEMATHESIS_HOOKS": "flyte_backend_schemathesis", "PYTHONPATH": str(TESTS / "hooks")}
    with serve(Remembering()) as service:
        run = subprocess.run(
            [*command, str(ROOT / "api/openapi.yaml"), "--url", service.url, *checks, *limits],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    tested = re.search(r"Tested: (\d+)", run.stdout)
    assert tested and int(tested[1]) == 14, run.stdout[-3000:]
