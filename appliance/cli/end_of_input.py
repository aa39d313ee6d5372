"""`appliance run --stop-at-eof`: the process ends with the one that started it, however that one ended.

The parent holds the other end of the pipe that is our standard input, and writes nothing. The kernel closes it also
after SIGKILL, and an end that comes before we look is still there when we do. Linux has PR_SET_PDEATHSIG, but that
tells of the end of the *thread* that started us, and Trio starts processes in threads that end after ten idle seconds.
"""

import os
import select
import sys

import trio

from appliance.supervisor import Appliance
from appliance.telemetry.logging import get_logger

log = get_logger("supervisor")


async def stop_at_end_of_input(appliance: Appliance) -> None:
    """Wait for the end of standard input, then begin the orderly stop.

    In a thread, since it may be a file, which no event loop waits for; the thread does not hold up our own end.
    """
    if sys.stdin is not None:  # None: it was closed before we began
        await trio.to_thread.run_sync(_read_to_the_end, sys.stdin.fileno(), abandon_on_cancel=True)
    log.info("stopping", signal="end of input")
    appliance.stop()


def _read_to_the_end(descriptor: int) -> None:
    """`os.read`, because at the interpreter's end nobody may hold the lock of `sys.stdin`."""
    is_open = True
    while is_open:
        try:
            is_open = bool(os.read(descriptor, 4096))
        except BlockingIOError:  # who shares it has made it so
            select.select([descriptor], [], [])
        except OSError:  # a terminal that is gone
            is_open = False
