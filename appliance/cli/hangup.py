"""SIGHUP from the first moment of `appliance run` on.

Whoever edits the file and reloads while the process starts, or stops, must not end it: that is what the signal does to
a process which has said nothing. Until the event loop listens (`run.py`), a signal is kept for it. It is noted before
the modules of the planes are imported, which takes most of a second: this module imports none of them.
"""

import argparse
import signal
from importlib import import_module
from types import FrameType


class Hangup:
    """Whether a SIGHUP came that nobody has acted on."""

    def __init__(self) -> None:
        self._noted = False

    def note(self, _number: int, _frame: FrameType | None) -> None:
        """The signal's handler, while nothing else is."""
        self._noted = True

    def taken(self) -> bool:
        """Whether one came; it is acted on now."""
        noted, self._noted = self._noted, False
        return noted


HANGUP = Hangup()  # as the signal itself, the process's


def run(arguments: argparse.Namespace) -> int:
    """`appliance run`, with SIGHUP noted before anything else."""
    signal.signal(signal.SIGHUP, HANGUP.note)
    code: int = import_module("appliance.cli.run").run(arguments)
    return code
