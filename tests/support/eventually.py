"""Waiting for something that happens in the kernel or another process, where there is no event to wait for."""

from collections.abc import Callable

import trio


async def eventually(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Return when ``condition`` holds; an assertion with its source's name when it does not in time."""
    with trio.move_on_after(timeout_s):
        while not condition():  # noqa: ASYNC110 there is no event for what others do
            await trio.sleep(0.01)
        return
    raise AssertionError(f"not within {timeout_s} s: {condition}")
