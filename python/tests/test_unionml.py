"""A UnionML app whose tasks go through a plugin, which runs them in processes: examples/python/process.py."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator

import pytest
from flyte_backend import BackendPluginRegistry

from .conftest import ROOT

_handler = signal.getsignal(signal.SIGINT)
import flyte_backend.local as local  # noqa: E402
from flytekit.exceptions.user import FlyteUserRuntimeException  # noqa: E402

pytestmark = pytest.mark.slow

signal.signal(signal.SIGINT, _handler)  # flytekit ends the process instead


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch, flyte_backend_registry: type[BackendPluginRegistry]) -> Iterator[None]:
    """The plugin takes its tasks, for one test."""
    monkeypatch.syspath_prepend(str(ROOT / "examples/python"))
    monkeypatch.delitem(sys.modules, "process", raising=False)
    with local.use("process"):
        yield


def test_training_gives_the_model_that_was_trained_elsewhere(used: None, capsys: pytest.CaptureFixture[str]) -> None:
    from .workflows.model import model

    trained, metrics = model.train(hyperparameters={"C": 1.0}, rows=50)
    assert trained.trained_in_ != os.getpid() and trained.coef_.shape == (1, 1)
    assert metrics["train"] > 0.9
    assert model.predict(features=[{"x": 1}, {"x": 49}]) == [0.0, 1.0]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0].split(".")[-1] for line in lines if line.endswith(": SUCCEEDED")] == [
        "dataset_task",
        "train_task",
        "predict_from_features_task",
    ]


def test_what_the_function_raises_is_raised_here(used: None) -> None:
    from .workflows.model import model

    with pytest.raises(FlyteUserRuntimeException, match="there are no rows"):
        model.train(hyperparameters={"C": 1.0}, rows=0)
