"""Runs flytekit's ``SnowflakeTask`` (task type ``snowflake``), by Snowflake's SQL API.

Importing it registers the plugin, so ``flyte-backend-serve --plugins flyte_backend.plugins.snowflake`` serves it. It needs the
extra ``snowflake``. docs/python-plugins.md tells how it is set up.
"""

from ..._registry import BackendPluginRegistry
from ._plugin import Job, SnowflakePlugin

__all__ = ["Job", "SnowflakePlugin"]

BackendPluginRegistry.register(SnowflakePlugin())
