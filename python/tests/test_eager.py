"""A plugin's first step is its task's own, whichever way the task was started."""

from __future__ import annotations

import asyncio
import contextvars

import anyio
import pytest
from flyte_backend._eager import start

variable = contextvars.ContextVar("variable", default="outside")


async def _whoever(wait: bool) -> str:
    first = asyncio.current_task()
    assert first is not None and first in asyncio.all_tasks()
    variable.set("inside")
    if wait:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
    assert asyncio.current_task() is first, "one task from beginning to end"
    return variable.get()


@pytest.mark.parametrize("wait", [False, True])
def test_is_a_task_of_its_own(wait: bool) -> None:
    async def main() -> None:
        me = asyncio.current_task()
        assert await start(_whoever(wait)) == "inside"
        assert variable.get() == "outside"
        assert asyncio.current_task() is me

    asyncio.run(main())


@pytest.mark.parametrize("wait", [False, True])
def test_raises(wait: bool) -> None:
    async def fail() -> None:
        if wait:
            await asyncio.sleep(0)
        raise ValueError("as it should")

    async def main() -> None:
        with pytest.raises(ValueError, match="as it should"):
            await start(fail())
        await asyncio.sleep(0)  # nothing is left that would tell of an exception nobody took

    asyncio.run(main())


def test_time_limits_and_cancel_scopes_hold() -> None:
    async def limited() -> str:
        with anyio.move_on_after(0.01):
            await asyncio.Event().wait()
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 0.01)
        except asyncio.TimeoutError:
            return "it went on"
        raise AssertionError("it waits for ever")

    async def main() -> None:
        assert await start(limited()) == "it went on"

    asyncio.run(main())


def test_is_cancelled_where_it_waits() -> None:
    async def main() -> None:
        seen: list[str] = []

        async def wait() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                await asyncio.sleep(0)
                seen.append("cleaned up")
                raise

        task = start(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["cancelled", "cleaned up"]

    asyncio.run(main())


def test_outside_of_a_task() -> None:
    async def main() -> None:
        found: asyncio.Future[asyncio.Future[str]] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(lambda: found.set_result(start(_whoever(True))))
        assert await (await found) == "inside"

    asyncio.run(main())
