"""The documents' Python is true."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from flyte_backend import BackendPluginRegistry, JobFailed, Overloaded, ServiceOptions, UserError
from flyte_backend._binding import PARAMETERS
from flyte_backend.testing import run, serve

from .conftest import PYTHON, ROOT


def blocks(file: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", file.read_text(), re.MULTILINE | re.DOTALL)


class BadStatement(Exception):
    pass


class Busy(Exception):
    pass


def warehouse() -> types.ModuleType:
    """The vendor's client of the guide."""
    queries: dict[str, types.SimpleNamespace] = {}

    async def submit(password: str, key: str, statement: str, inputs: dict[str, Any]) -> str:
        assert password == "s3cret" and key
        if statement == "bad":
            raise BadStatement("bad")
        if statement == "busy":
            raise Busy
        error = "no such column" if statement == "wrong" else ""
        queries[key] = types.SimpleNamespace(done=False, rows=inputs["limit"], uri="s3://b/t", error=error)
        return key

    async def look(region: str, name: str) -> types.SimpleNamespace:
        assert region == "eu"
        query = queries[name]
        seen = types.SimpleNamespace(**vars(query))
        query.done = True
        return seen

    async def cancel(region: str, name: str) -> None:
        queries[name].done = True

    module = types.ModuleType("warehouse")
    vars(module).update(submit=submit, look=look, cancel=cancel, BadStatement=BadStatement, Busy=Busy)
    return module


def test_the_guide(monkeypatch: pytest.MonkeyPatch, flyte_backend_registry: type[BackendPluginRegistry]) -> None:
    monkeypatch.setitem(sys.modules, "warehouse", warehouse())
    monkeypatch.setenv("_FSEC_WAREHOUSE_PASSWORD", "s3cret")
    monkeypatch.setitem(sys.modules, "my_workflows", importlib.import_module("tests.workflows.flows"))
    module = types.ModuleType("guide")
    monkeypatch.setitem(sys.modules, "guide", module)
    pieces = blocks(ROOT / "docs/write-a-plugin.md")
    pieces.remove((ROOT / "examples/python/square_flow.py").read_text())  # flytekit wants a file; test_pyflyte.py runs it
    assert len(pieces) == 4
    for piece in pieces:
        exec(compile(piece, "docs/write-a-plugin.md", "exec"), vars(module))
    module.test_query()
    module.test_report()
    (plugin,) = flyte_backend_registry.plugins()
    for statement, kind in (("bad", UserError), ("busy", Overloaded), ("wrong", JobFailed)):
        with pytest.raises(kind):
            run(plugin, {"limit": 1}, custom={"statement": statement})
    with serve(plugin, options=ServiceOptions(readiness_delay=0)) as service:
        assert module.rows_of(service.url, "select 1") == 10


def test_the_guide_lists_what_methods_take() -> None:
    text = (ROOT / "docs/write-a-plugin.md").read_text()
    rows = dict(re.findall(r"^  \| (`.*?`) \| (.*?) \|$", text, re.MULTILINE))
    for methods, takes in rows.items():
        for method in re.findall(r"`(\w+)`", methods):
            assert set(re.findall(r"`(\w+)`", takes)) == set(PARAMETERS[method]) - {"max_output_bytes"}, method
    assert len(rows) == 3


def test_the_packages_own_page(flyte_backend_registry: type[BackendPluginRegistry]) -> None:
    module = types.ModuleType("page")
    pieces = blocks(PYTHON / "README.md")
    assert len(pieces) == 2
    for piece in pieces:
        exec(compile(piece, "python/README.md", "exec"), vars(module))
    assert len(flyte_backend_registry.plugins()) == 1


def test_the_readme_shows_the_example() -> None:
    example = (ROOT / "examples/python/square.py").read_text()
    assert blocks(ROOT / "README.md") == [example]
    assert example.count("\n") < 40
    assert (ROOT / "examples/python/test_square.py").read_text().count("\n") < 20


def test_the_examples_own_tests() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "examples/python")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout + done.stderr


def test_the_package_is_typed_and_small() -> None:
    """A program that uses it gets its types, and no gRPC, flytekit or pytest by importing it."""
    program = "import sys, flyte_backend.app, flyte_backend.client, flyte_backend.testing; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"grpc", "flyteidl", "flytekit", "pytest", "google.protobuf", "yaml"} & set(loaded)
    assert (PYTHON / "src/flyte_backend/py.typed").exists()
