"""Lines for people that end where the terminal does: what is too long goes on below its own column.

A file or a pipe has no width; nothing is folded there, so that `grep` finds what belongs together.
"""

from __future__ import annotations

import sys
from typing import TextIO

from rich.console import Console
from rich.text import Text

NO_TERMINAL_WIDTH = 1000
LEAST_WIDTH = 20


def page_console(*, stderr: bool) -> Console:
    width = None if _is_terminal(sys.stderr if stderr else sys.stdout) else NO_TERMINAL_WIDTH
    return Console(stderr=stderr, highlight=False, width=width)


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty()


def print_folded(console: Console, line: Text, at: int) -> None:
    """at: the column in which the rest goes on."""
    if len(line) <= console.width:
        console.print(line)
        return
    first, *rest = line[at:].wrap(console, max(LEAST_WIDTH, console.width - at))
    for piece in (line[:at] + first, *(Text(" " * at) + more for more in rest)):
        piece.rstrip()
        console.print(piece)
