"""Queries of BigQuery: tasks of type ``bigquery_query_job_task``, as flytekit's ``BigQueryTask`` writes them.

``flyte-backend-serve --plugins flyte_backend.plugins.bigquery`` serves it. It needs the extra ``flyte-backend[bigquery]``.
docs/python-plugins.md says how it is set up, and what becomes of a task's inputs and settings.
"""

from ..._errors import PluginError
from ..._registry import BackendPluginRegistry

try:
    from google.cloud import bigquery as _client  # noqa: F401  # only to see that it is there
except ImportError as e:
    raise PluginError(f"the BigQuery plugin needs {e.name or 'google.cloud'}: pip install 'flyte-backend[bigquery]'") from e

from ._job import BigQueryJob
from ._plugin import BigQuery

__all__ = ["BigQuery", "BigQueryJob"]

BackendPluginRegistry.register(BigQuery())
