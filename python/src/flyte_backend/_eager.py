"""Tasks that take their first step at once, as Python has them from 3.12 on.

Most calls of a plugin that has nothing to wait for end in that step. Then nobody waits for the loop to come round, which under
grpc.aio costs more than all else that a poll does.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")

if sys.version_info >= (3, 12):

    def start(coroutine: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """A task of the running loop, which has taken its first step and may be done."""
        return asyncio.Task(coroutine, loop=asyncio.get_running_loop(), eager_start=True)

elif sys.version_info >= (3, 11):

    def start(coroutine: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """A task of the running loop, which has taken its first step, or a future that is done if that was all."""
        loop = asyncio.get_running_loop()
        me = asyncio.current_task()
        if me is None:
            return loop.create_task(coroutine)
        context = contextvars.copy_context()
        first = _First()
        task: asyncio.Task[T] = loop.create_task(_go_on(coroutine, first), context=context)
        # The step is the new task's, for timeouts, cancel scopes and whoever else asks who runs. Other kinds of tasks than
        # asyncio's do the same: https://docs.python.org/3/library/asyncio-extending.html#task-lifetime-support
        asyncio.tasks._leave_task(loop, me)
        asyncio.tasks._enter_task(loop, task)
        try:
            first.waits_for = context.run(coroutine.send, None)
        except StopIteration as e:
            first.result = loop.create_future()
            first.result.set_result(e.value)
        except BaseException as e:
            first.result = loop.create_future()
            first.result.set_exception(e)
        finally:
            asyncio.tasks._leave_task(loop, task)
            asyncio.tasks._enter_task(loop, me)
        return task if first.result is None else first.result

    class _First:
        """What the first step came to: something to wait for, or the end."""

        waits_for: Any = None
        result: asyncio.Future[Any] | None = None

    @types.coroutine
    def _go_on(coroutine: Coroutine[Any, Any, T], first: _First) -> Generator[Any, Any, Any]:
        """The rest of a coroutine, after its first step."""
        if first.result is not None:
            return None
        waits_for = first.waits_for
        while True:
            try:
                try:
                    sent = yield waits_for
                except GeneratorExit:
                    coroutine.close()
                    raise
                except BaseException as e:
                    waits_for = coroutine.throw(e)
                else:
                    waits_for = coroutine.send(sent)
            except StopIteration as e:
                return e.value

else:

    def start(coroutine: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """A task of the running loop."""
        return asyncio.get_running_loop().create_task(coroutine)
