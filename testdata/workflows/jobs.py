"""A task that runs as a job at the test service in go/backendtest (jobs.go), which does what the task's `custom` says.

Run locally, a Job computes the same outputs at once, and never fails.
"""

from datetime import timedelta
from typing import Any, Dict, Optional, Type

from flytekit import kwtypes
from flytekit.configuration import SerializationSettings
from flytekit.core.base_task import TaskMetadata
from flytekit.core.interface import Interface
from flytekit.core.python_function_task import PythonInstanceTask


class Job(PythonInstanceTask):
    """A PythonInstanceTask and not a plain PythonTask, because map_task takes no other that has no function."""

    def __init__(
        self,
        name: str,
        inputs: Optional[Dict[str, Type]] = None,
        outputs: Optional[Dict[str, Type]] = None,
        task_type: str = "job",
        retries: int = 0,
        timeout: Optional[timedelta] = None,
        metadata: Optional[TaskMetadata] = None,
        **custom: Any,
    ):
        """Makes a job of one int input x and one int output o0, unless told otherwise; custom: see jobs.go."""
        self._custom = custom
        super().__init__(
            name=name,
            task_config=None,
            task_type=task_type,
            interface=Interface(
                inputs=kwtypes(x=int) if inputs is None else inputs,
                outputs=kwtypes(o0=int) if outputs is None else outputs,
            ),
            metadata=metadata or TaskMetadata(retries=retries, timeout=timeout),
        )

    def get_custom(self, settings: SerializationSettings) -> Dict[str, Any]:
        return self._custom

    def get_container(self, settings: SerializationSettings) -> None:
        return None  # nothing that a pod could run

    def execute(self, **kwargs: Any) -> Any:
        flat = [v for arg in kwargs.values() for v in (arg if isinstance(arg, list) else [arg])]
        total = sum(v for v in flat if isinstance(v, int) and not isinstance(v, bool))
        made = []
        for typ in self.python_interface.outputs.values():
            if typ is int:
                made.append(total + int(self._custom.get("add", 0)))
            elif typ is str:
                made.append("".join(v for v in flat if isinstance(v, str)))
            elif typ is bool:
                made.append(True)
            else:
                made.append(typ())
        return None if not made else made[0] if len(made) == 1 else tuple(made)
