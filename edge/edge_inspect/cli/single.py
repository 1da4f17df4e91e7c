"""How a command line of ours ends, and a program that has one command: `edge-inspect-fetch`, `edge-inspect-probe`.

1. Every refusal is one line on stderr, `PROGRAM: what, where, found, allowed`, and its exit code.
2. Who asked with --json gets one object on stdout, a refusal too; `code` is in it where the refusal has one.

    sys.exit(run_single(fetch, "edge-inspect-fetch", EXAMPLE, sys.argv[1:]))
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

from edge_inspect.cli import output
from edge_inspect.errors import InspectError, Usage
from edge_wire.program import INTERRUPTED

# Newer typer carries its own copy of click, older ones use click itself: this is the right one either way.
UsageError: type[Any] = typer.BadParameter.__mro__[1]


def run_single(command: Callable[..., None], program: str, example: str, argv: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    output.emitted = False
    try:
        code = typer.main.get_command(single_app(command, example)).main(
            args=list(argv), prog_name=program, standalone_mode=False
        )
    except UsageError as err:
        what = f"{err.format_message().rstrip('.')}. See `{program} --help`."
        return failed(program, argv, Usage.exit_code, what)
    except InspectError as err:
        return failed(program, argv, err.exit_code, str(err), err.code)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def single_app(command: Callable[..., None], example: str) -> typer.Typer:
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command(epilog=example)(command)
    return app


def failed(program: str, argv: Sequence[str], exit_code: int, message: str, code: str = "") -> int:
    """One line for a person; who asked with --json and got no object yet, gets the same as one."""
    one_line = " ".join(message.split())
    sys.stderr.write(f"{program}: {one_line}\n")
    if "--json" in argv and not output.emitted:
        output.emit({"ok": False, "exit_code": exit_code, "error": one_line} | ({"code": code} if code else {}))
    return exit_code
