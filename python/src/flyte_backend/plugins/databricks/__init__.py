"""Databricks: tasks of flytekitplugins-spark run as one-time runs of a Databricks workspace.

``flyte-backend-serve --plugins flyte_backend.plugins.databricks`` serves the task types ``databricks`` (``DatabricksV2``) and
``spark`` (the older ``Databricks``). docs/python-plugins.md says how it is set up.
"""

from ..._registry import BackendPluginRegistry
from ._plugin import Databricks, Run, Workspaces
from ._settings import Settings

__all__ = ["Databricks", "Run", "Settings", "Workspaces"]


def _register() -> None:
    workspaces = Workspaces()
    for task_type in Settings.from_env().task_types:
        BackendPluginRegistry.register(Databricks(task_type, workspaces=workspaces))


_register()
