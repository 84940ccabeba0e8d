"""Tasks of type square in a workflow. Run it: FLYTE_BACKEND_PLUGINS=square pyflyte run square_flow.py area --side 3"""

from typing import Any, Dict

from flytekit import workflow
from flytekit.configuration import SerializationSettings
from flytekit.core.interface import Interface
from flytekit.extend import PythonTask


class SquareTask(PythonTask[None]):
    """A task of type square, which runs wherever the plugin of that type runs it. There is no Python function."""

    def __init__(self, name: str, seconds: float = 1, **more: Any) -> None:
        super().__init__("square", name, None, Interface({"x": int}, {"o0": int}), **more)
        self.seconds = seconds

    def get_custom(self, settings: SerializationSettings) -> Dict[str, Any]:
        """What the plugin gets as ``task.custom``."""
        return {"seconds": self.seconds}

    def execute(self, **inputs: Any) -> Any:
        raise NotImplementedError("a plugin runs this: set FLYTE_BACKEND_PLUGINS=square, or FLYTE_BACKEND_ENDPOINT")


square = SquareTask("square", seconds=0.5)


@workflow
def area(side: int) -> int:
    return square(x=side)
