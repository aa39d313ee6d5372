"""The `appliance` command: one module for each subcommand, one place for exit codes.

0 done, 1 failed, 2 bad usage or configuration (DESIGN: command line).
"""

import os
import sys
from collections.abc import Iterator, Sequence

from appliance.cli.parser import build_parser
from appliance.domain.errors import ApplianceError, ConfigError

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit code. Errors of ours are one clear line each, never a traceback."""
    arguments = build_parser().parse_args(argv)
    try:
        return int(arguments.command(arguments) or EXIT_DONE)
    except KeyboardInterrupt:
        return EXIT_DONE
    except BrokenPipeError:
        _discard_output()
        return EXIT_DONE
    except (ApplianceError, ExceptionGroup) as error:
        return _report(error)


def _report(error: Exception) -> int:
    """Print what went wrong; an exception that is not ours is a bug and propagates with its traceback."""
    leaves = list(_leaves(error))
    for leaf in leaves:
        if not isinstance(leaf, ApplianceError):
            raise error
    for line in dict.fromkeys(line for leaf in leaves for line in str(leaf).splitlines()):
        print(f"appliance: {line}", file=sys.stderr)
    return EXIT_USAGE if all(isinstance(leaf, ConfigError) for leaf in leaves) else EXIT_FAILED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _discard_output() -> None:
    """Whoever read our output has gone (`appliance tail | head`): nothing more to say, also not at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
