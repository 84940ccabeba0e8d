"""flytekit's side of process.py: @task(task_config=OnProcess()) makes a function a task of type "process"."""

from dataclasses import dataclass
from typing import Any

from flytekit import PythonFunctionTask
from flytekit.extend import TaskPlugins


@dataclass
class OnProcess:
    """Selects the task type; a real one has settings, which get_custom would put into the template."""


class ProcessTask(PythonFunctionTask[OnProcess]):
    """A function that runs where the plugin for "process" runs it."""

    def __init__(self, task_config: OnProcess, task_function: Any, **more: Any) -> None:
        super().__init__(task_config=task_config, task_type="process", task_function=task_function, **more)


TaskPlugins.register_pythontask_plugin(OnProcess, ProcessTask)
