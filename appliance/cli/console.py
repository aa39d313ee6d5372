"""Where tables are printed."""

import os
import sys
from typing import Final

from rich.console import Console

_UNWRAPPED_COLUMNS: Final = 2000


def table_console() -> Console:
    """As wide as the terminal; in a file or a pipe a row is one line, for grep, unless COLUMNS says how wide."""
    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=_UNWRAPPED_COLUMNS if wide else None)
