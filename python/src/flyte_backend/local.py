"""Runs the tasks of workflows on this machine through backend plugins, when flytekit runs the workflow locally.

``pyflyte run``, and calls in plain Python, then run each task whose type a plugin is for as Flyte would: by the plugin's create
and poll. All other tasks run as they always do. A workflow is not changed for it; either the environment says where tasks run::

    FLYTE_BACKEND_PLUGINS=my_plugins.query,my_plugins.spark:Spark   # in this process, without a service
    FLYTE_BACKEND_ENDPOINT=http://127.0.0.1:8080                    # at a service that speaks REST
    FLYTE_BACKEND_TOKEN=…                                           # sent to it, if need be

or a line of Python does, before a workflow runs::

    flyte_backend.local.use("my_plugins.query")
    flyte_backend.local.use(Query())
    flyte_backend.local.use(endpoint="http://127.0.0.1:8080")

It needs flytekit (``pip install 'flyte-backend[flytekit]'``).
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from ._errors import ConfigurationError
from ._local_sources import Source, added, endpoint_source, plugins_source
from ._plugin import BackendPluginBase
from ._secrets import Secrets

__all__ = ["Use", "use"]


class Use:
    """That tasks run somewhere, until it is closed. As a context manager it ends with the block."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def close(self) -> None:
        """Tasks run as before. This may be repeated."""
        if self._source in added:
            added.remove(self._source)
        self._source.close()

    def __enter__(self) -> Use:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def use(
    *plugins: BackendPluginBase | str,
    endpoint: str = "",
    token: str | Callable[[], str] = "",
    verify: Any = True,
    secrets: Secrets | None = None,
    patience: float = 600.0,
) -> Use:
    """Run tasks through these plugins in this process, or at the service of ``endpoint``.

    ``plugins`` are plugins, or modules that register them (``module``, ``module:NAME``). They are loaded, and a service is
    asked what it serves, when the first task runs. What is used last is asked first, before what the environment says.

    ``token`` and ``verify`` are those of :class:`flyte_backend.client.BackendClient`. ``secrets`` is what plugins read theirs
    from. ``patience`` is how long, in seconds, a call is repeated that may succeed later, and an outage is waited out.

    Raises :class:`ConfigurationError` when it is not said where, or flytekit is missing.
    """
    if bool(plugins) == bool(endpoint):
        raise ConfigurationError("give plugins to run in this process, or the endpoint of a service: one of them")
    try:
        from ._local_flytekit import install
    except ModuleNotFoundError as e:
        raise ConfigurationError(
            f"running workflows needs {(e.name or 'flytekit').split('.')[0]}: pip install 'flyte-backend[flytekit]'"
        ) from e
    if endpoint:
        source = endpoint_source(endpoint, token=token, verify=verify, patience=patience)
    else:
        source = plugins_source(plugins, secrets=secrets, patience=patience)
    added.insert(0, source)
    install()
    return Use(source)
