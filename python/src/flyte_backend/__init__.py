"""Backend plugins for Flyte, written in Python.

A plugin makes a task type run somewhere: in a warehouse, on a cluster, behind an API. It is a class with three methods::

    from flyte_backend import BackendPluginBase, BackendPluginRegistry, JobStatus, TaskInfo, running, succeeded

    class MyPlugin(BackendPluginBase):
        def __init__(self) -> None:
            super().__init__(task_type="my_task")

        async def create(self, task: TaskInfo) -> str:
            return await start(task.inputs["statement"])

        async def poll(self, job_id: str) -> JobStatus:
            return running() if await is_running(job_id) else succeeded({"rows": 3})

        async def delete(self, job_id: str) -> None:
            await cancel(job_id)

    BackendPluginRegistry.register(MyPlugin())

``flyte-backend-serve --plugins my_module --insecure`` serves it.
"""

from ._errors import (
    AlreadyExists,
    BackendError,
    Cancelled,
    Code,
    ConfigurationError,
    Conflict,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    FlyteBackendError,
    JobFailed,
    NotFound,
    OutOfRange,
    Overloaded,
    PermissionDenied,
    PluginError,
    Retry,
    SecretError,
    SystemError_,
    Unauthenticated,
    Unimplemented,
    UnknownError,
    UserError,
)
from ._metrics import package_version
from ._plugin import (
    BackendPluginBase,
    JobRef,
    JobState,
    JobStatus,
    LogLine,
    LogLink,
    LogPage,
    Metric,
    SyncPlugin,
    TaskInfo,
    aborted,
    failed,
    initializing,
    queued,
    running,
    succeeded,
    waiting,
)
from ._registry import BackendPluginRegistry
from ._secrets import Secrets
from ._service import ServiceOptions
from ._types import Binary, Blob, Dataset, Offloaded, Schema, TaskFailure
from ._values import Literals

__version__ = package_version()

__all__ = [
    "AlreadyExists",
    "BackendError",
    "BackendPluginBase",
    "BackendPluginRegistry",
    "Binary",
    "Blob",
    "Cancelled",
    "Code",
    "ConfigurationError",
    "Conflict",
    "DataLoss",
    "Dataset",
    "DeadlineExceeded",
    "FailedPrecondition",
    "FlyteBackendError",
    "JobFailed",
    "JobRef",
    "JobState",
    "JobStatus",
    "Literals",
    "LogLine",
    "LogLink",
    "LogPage",
    "Metric",
    "NotFound",
    "Offloaded",
    "OutOfRange",
    "Overloaded",
    "PermissionDenied",
    "PluginError",
    "Retry",
    "Schema",
    "SecretError",
    "Secrets",
    "ServiceOptions",
    "SyncPlugin",
    "SystemError_",
    "TaskFailure",
    "TaskInfo",
    "Unauthenticated",
    "Unimplemented",
    "UnknownError",
    "UserError",
    "__version__",
    "aborted",
    "failed",
    "initializing",
    "queued",
    "running",
    "succeeded",
    "waiting",
]
