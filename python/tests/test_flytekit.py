"""Values go to flytekit and come from it, with the literals that flytekit itself makes and reads."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Optional

import pytest
from flyte_backend import Blob, ConfigurationError, Dataset, TaskInfo, UserError
from flyte_backend._protojson import check_message
from flyte_backend._values import decode, encode

from .conftest import PYTHON, ROOT

SIDE = PYTHON / "tests/flytekit_side.py"

# What plugins get of the values of flytekit_side.py.
PYTHON_VALUES: dict[str, Any] = {
    "int": 7,
    "large": -(1 << 63),
    "float": 1.5,
    "str": "grüße",
    "bool": True,
    "datetime": datetime(2026, 2, 3, 4, 5, 6, 7, timezone.utc),
    "timedelta": timedelta(days=-1, seconds=1.5),
    "list": [1, 2],
    "nested": [["a"], []],
    "map": {"a": 1},
    "optional": 3,
    "none": None,
    "union": "a",
    "enum": "red",
    "dict": {"a": [1, 2.5, None], "b": {"c": "d"}},
    "dataclass": {"x": 1, "inner": {"n": 2, "tags": ["t"]}, "when": None},
    "dataclasses": [{"n": 1, "tags": []}, {"n": 2, "tags": ["a"]}],
    "file": Blob("s3://b/f"),
    "folder": Blob("s3://b/d", folder=True),
    "table": Dataset("s3://b/t", "parquet"),
}

# A value alone does not tell that these are no structures, or which type of a union is meant: they need the type.
NEEDS_TYPE = {"map", "optional", "none", "union"}


@pytest.fixture(scope="module")
def python() -> Path:
    return (
        Path(subprocess.run([ROOT / "tools/flytekit.sh"], check=True, capture_output=True, text=True).stdout.strip())
        / "bin/python"
    )


@pytest.fixture(scope="module")
def written(python: Path) -> dict[str, Any]:
    done = subprocess.run([python, SIDE, "write"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    literals: dict[str, Any] = json.loads(done.stdout)
    return literals


def test_from_flytekit(written: dict[str, Any]) -> None:
    found = {name: decode(check_message("flyteidl.core.Literal", one["literal"])) for name, one in written.items()}
    assert found == PYTHON_VALUES


def test_to_flytekit(python: Path, written: dict[str, Any]) -> None:
    """Of the type that the task declares, and of the value alone where that will do."""
    typed = {name: encode(value, written[name]["type"]) for name, value in PYTHON_VALUES.items()}
    plain = {name: encode(value) for name, value in PYTHON_VALUES.items() if name not in NEEDS_TYPE}
    for literals in (typed, plain):
        done = subprocess.run([python, SIDE, "read"], input=json.dumps(literals), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer["read"] == answer["values"]
    assert typed["none"]["scalar"]["union"]["value"] == written["none"]["literal"]["scalar"]["union"]["value"]


def test_inputs_as_flytekit_has_them(written: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "table.txt"
    file.write_text("rows")
    blob = {"scalar": {"blob": {"metadata": {"type": {}}, "uri": str(file)}}}
    literals = {name: written[name]["literal"] for name in ("int", "list", "dataclass")} | {"file": blob}
    types = {name: written[name]["type"] for name in literals}
    template = {"interface": {"inputs": {"variables": {name: {"type": of} for name, of in types.items()}}}}
    task = TaskInfo(template, literals=literals)

    @dataclass
    class Inner:
        n: int
        tags: list[str]

    @dataclass
    class Outer:
        x: int
        inner: Inner
        when: datetime | None

    Outer.__annotations__.update(inner=Inner, when=Optional[datetime])
    found = task.as_flytekit({"dataclass": Outer})
    assert (found["int"], found["list"], found["dataclass"]) == (7, [1, 2], Outer(1, Inner(2, ["t"]), None))
    with open(found["file"]) as opened:
        assert opened.read() == "rows"
    with pytest.raises(UserError, match="input 'int' cannot be read by flytekit: .*"):
        task.as_flytekit({"int": datetime})


def test_flytekits_values_need_flytekit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flytekit", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'flyte-backend\[flytekit\]'"):
        TaskInfo({}).as_flytekit()
