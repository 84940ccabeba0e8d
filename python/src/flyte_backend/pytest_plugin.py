"""Fixtures for pytest. Nothing happens unless a test asks for one; every name begins with ``flyte_backend_``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .testing import RunningService


@pytest.fixture
def flyte_backend_registry() -> Iterator[Any]:
    """An empty :class:`BackendPluginRegistry` for one test."""
    from ._registry import BackendPluginRegistry

    with BackendPluginRegistry.isolated():
        yield BackendPluginRegistry


@pytest.fixture
def flyte_backend_run() -> Callable[..., dict[str, Any]]:
    """:func:`flyte_backend.testing.run`: a job's whole life in one call."""
    from .testing import run

    return run


@pytest.fixture
def flyte_backend_serve() -> Iterator[Callable[..., RunningService]]:
    """Starts real services, which end with the test: ``flyte_backend_serve(MyPlugin())`` gives one, with a client."""
    from .testing import serve

    with contextlib.ExitStack() as stack:

        def start(*plugins: Any, **more: Any) -> RunningService:
            return stack.enter_context(serve(*plugins, **more))

        yield start
