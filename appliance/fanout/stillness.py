"""Whether anything in the process waits for the event loop to come round.

A pass of trio's loop after half a millisecond of sends finds nothing in the processor's caches: 20 us, and giving way
takes two or three of them. To ask the kernel whether a pass would find anything costs 1 us. trio does not offer
that, so its epoll is looked up here, in one place; where it is not found (another system, another trio) the answer is
always that somebody may wait, and everything works as it would without.
"""

import select
from collections.abc import Sized
from operator import attrgetter

from trio._core import _run as trio_run

_EPOLL = attrgetter("GLOBAL_RUN_CONTEXT.runner.io_manager._epoll")
_RUNNABLE = attrgetter("GLOBAL_RUN_CONTEXT.runner.runq")


class Stillness:
    """Made within `trio.run`; call it from a task of that run."""

    __slots__ = ("_poll", "_runnable")

    def __init__(self) -> None:
        self._poll: select.poll | None = None
        self._runnable: Sized = ()
        try:
            epoll, self._runnable = _EPOLL(trio_run), _RUNNABLE(trio_run)
            poll = select.poll()
            poll.register(epoll, select.POLLIN)
        except (AttributeError, TypeError):
            return
        self._poll = poll

    @property
    def is_known(self) -> bool:
        """Whether it can tell at all."""
        return self._poll is not None

    def __call__(self) -> bool:
        """No task is runnable and no file descriptor that a task waits for is ready. Timers are not looked at."""
        return self._poll is not None and not self._runnable and not self._poll.poll(0)
