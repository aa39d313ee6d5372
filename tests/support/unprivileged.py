"""The command line as a user whom permissions bind, also where the tests run as root, who may read and write all."""

import ctypes
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.scripts import run_script

_CAPABILITY_VERSION_3 = 0x20080522
_DAC_OVERRIDE_AND_READ_SEARCH = 0b110
"""Capabilities 1 and 2: without them root is an owner like any other (capabilities(7))."""

_SCRIPT = """
import contextlib, io, json, sys
from appliance.cli import main
from tests.support.unprivileged import give_up_roots_rights

give_up_roots_rights()
outcomes = []
for command in json.load(sys.stdin):
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(command)
    outcomes.append([code, *(stream.buffer.getvalue().decode() for stream in (out, err))])
json.dump(outcomes, sys.stdout)
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one command printed, and its exit code."""

    code: int
    out: str
    err: str


def run_unprivileged(*commands: Sequence[str | Path]) -> list[Outcome]:
    """Run `appliance` with each of these arguments, in one child process; AssertionError with its traceback."""
    found = run_script(_SCRIPT, text=json.dumps([[str(argument) for argument in command] for command in commands]))
    return [Outcome(*outcome) for outcome in json.loads(found)]


def give_up_roots_rights() -> None:
    """From here on the mode of a file or folder of our own binds this process, for good."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then those of capabilities from 32
    for call in (libc.capget, libc.capset):
        if call(header, sets) != 0:
            raise OSError(ctypes.get_errno(), "capabilities")
        sets[0] &= ~_DAC_OVERRIDE_AND_READ_SEARCH
        sets[1] &= ~_DAC_OVERRIDE_AND_READ_SEARCH
