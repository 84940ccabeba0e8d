"""Between flytekit and backend plugins: which tasks are taken over, and what goes each way.

``Task.sandbox_execute`` is what flytekit calls when it executes a task locally and on no other occasion, below its cache and
with the inputs as literals. Every task type comes by there. Items of a ``map_task`` alone do not: their task's ``execute`` is
called.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable
from typing import Any

from flytekit.core.array_node_map_task import ArrayNodeMapTask
from flytekit.core.base_task import PythonTask, Task
from flytekit.core.context_manager import FlyteContext, FlyteContextManager
from flytekit.core.python_function_task import PythonFunctionTask
from flytekit.core.type_engine import TypeEngine
from flytekit.exceptions.system import FlyteSystemException
from flytekit.exceptions.user import FlyteUserRuntimeException
from flytekit.loggers import logger
from flytekit.models.literals import LiteralMap

from ._errors import FlyteBackendError, JobFailed
from ._local_job import AttemptFailed, Ended, TaskCall, delete_jobs_of_other_threads, run
from ._local_progress import Progress
from ._local_sources import Offer, find
from ._local_template import ArrayItem, Run, read_outputs
from ._plugin import JobState

__all__ = ["install"]

_MARK = "_flyte_backend"


def install() -> None:
    """Have flytekit ask for a plugin before it executes a task locally. This may be repeated."""
    original = Task.sandbox_execute
    if hasattr(original, _MARK):
        return

    @functools.wraps(original)
    def sandbox_execute(self: Task, ctx: FlyteContext, input_literal_map: LiteralMap) -> LiteralMap:
        return _execute(original, self, ctx, input_literal_map)

    setattr(sandbox_execute, _MARK, True)
    Task.sandbox_execute = sandbox_execute
    FlyteContextManager.add_signal_handler(lambda number, frame: delete_jobs_of_other_threads())


def _execute(original: Callable[..., LiteralMap], task: Task, ctx: FlyteContext, inputs: LiteralMap) -> LiteralMap:
    if isinstance(task, ArrayNodeMapTask):
        inner = task.python_function_task
        offer = _find(task.task_type, inner.task_type_version)
        return original(task if offer is None else _mapped(task, inner, offer, inputs), ctx, inputs)
    if not isinstance(task, PythonTask):
        return original(task, ctx, inputs)
    if isinstance(task, PythonFunctionTask) and task.execution_mode != PythonFunctionTask.ExecutionBehavior.DEFAULT:
        return original(task, ctx, inputs)  # @dynamic and @eager: the tasks in it come by here themselves
    offer = _find(task.task_type, task.task_type_version)
    if offer is None:
        return original(task, ctx, inputs)
    return _attempts(task, offer, ctx, inputs)


def _find(task_type: str, task_type_version: int) -> Offer | None:
    """What is wrong with the set-up is told by itself: pyflyte would show pages of how it was found out."""
    try:
        return find(task_type, task_type_version)
    except FlyteBackendError as e:
        logger.debug("the plugins cannot be used", exc_info=True)
        raise e.with_traceback(None) from None


_numbers = itertools.count()


def _attempts(
    task: PythonTask[Any], offer: Offer, ctx: FlyteContext, inputs: LiteralMap, item: ArrayItem | None = None
) -> LiteralMap:
    """Runs a task as often as its retries say, and gives its outputs. Raises as flytekit does for a task that fails."""
    name = task.name if item is None else f"{item.mapped.name}[{item.index}]"
    if task.metadata.timeout:
        logger.info(f"{name} has a timeout, which a local run does not keep")
    of = Run(task, offer, ctx, inputs, item, node=f"n{next(_numbers)}", attempts=task.metadata.retries + 1)
    progress = Progress(name)
    try:
        for attempt in itertools.count():
            try:
                return _attempt(of, of.call(attempt), progress)
            except AttemptFailed as e:
                if not e.retry or attempt >= task.metadata.retries:
                    raise _as_flytekit(e, name) from None
                progress.note(f"attempt {attempt + 1} of {task.metadata.retries + 1} failed: {e}")
    finally:
        progress.end()
    raise AssertionError("attempts without end")


def _attempt(of: Run, call: TaskCall, progress: Progress) -> LiteralMap:
    ended: Ended = run(of.offer, call, progress)
    if ended.state is not JobState.SUCCEEDED:
        failure = ended.failure()
        if not ended.error_code:
            failure = of.written_error(call) or failure
        raise failure
    if ended.outputs is None:
        return of.written_outputs(call)
    return read_outputs(ended.outputs, of.task)


def _as_flytekit(e: AttemptFailed, name: str) -> Exception:
    """The exception that flytekit has for it, with flytekit's words. Its cause keeps the code."""
    message = f"Error encountered while executing '{name}':\n  {e.message}" + (f" ({e.code})" if e.code else "")
    if e.is_users:
        code = e.code or FlyteUserRuntimeException._ERROR_CODE
        users: Exception = FlyteUserRuntimeException(JobFailed(message, state="FAILED", error_code=code, recoverable=e.retry))
        return users
    systems: Exception = FlyteSystemException(message)
    return systems


def _mapped(task: ArrayNodeMapTask, inner: PythonTask[Any], offer: Offer, inputs: LiteralMap) -> ArrayNodeMapTask:
    """The same map task, whose items go to a plugin. Which of them may fail is left to flytekit."""
    numbers = itertools.count()

    def execute(**values: Any) -> Any:
        ctx = FlyteContextManager.current_context()
        types = inner.python_interface.inputs
        literals = TypeEngine.dict_to_literal_map(ctx, values, types)
        given = _attempts(inner, offer, ctx, literals, ArrayItem(task, next(numbers), inputs))
        outputs = TypeEngine.literal_map_to_kwargs(ctx, given, inner.python_interface.outputs)
        return next(iter(outputs.values()), None)

    item, whole = copy.copy(inner), copy.copy(task)
    item.execute = execute
    whole._run_task = item
    return whole
