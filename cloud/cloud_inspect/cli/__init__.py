"""`cloud-inspect`: take reports in, look at them, train, pack and release models; one file a family of commands.

A refusal is one line on stderr, `cloud-inspect: <what is wrong> [code]`, and the exit code of its error; no traceback.
Who asked with --json gets the same as one object on stdout.
Exit codes: 0 done, 1 failed, 64 usage, 74 stdout takes nothing, 78 settings or database, 130 Ctrl-C, 141 nobody reads
stdout any more.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import typer

from cloud_inspect.cli import database, ingest, output, release, reports, train
from cloud_inspect.errors import CloudError
from edge_wire.program import INTERRUPTED

USAGE = 64
# Newer typer carries its own copy of click, older ones use click itself: this is the right one either way.
UsageError: type[Any] = typer.BadParameter.__mro__[1]


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cloud-inspect {metadata.version('edge-inspect')}")
        raise typer.Exit


app = typer.Typer(
    name="cloud-inspect",
    help="The plant's side: devices' reports in, signed-off model packages out.",
    epilog="Example: cloud-inspect ingest --mqtt mqtt://broker --db sqlite:///inspect.sqlite3",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True, callback=_tell_version),
) -> None:
    """The plant's side: devices' reports in, signed-off model packages out."""


for family in (ingest, reports, database, train, release):
    family.add(app)


def main() -> None:
    """Run the command line of this process. Raises SystemExit."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(argv: Sequence[str]) -> int:
    """The exit code. All errors that a user may meet end here, as one line."""
    output.emitted = False
    try:
        code = app(args=list(argv), prog_name="cloud-inspect", standalone_mode=False)
    except UsageError as err:
        where = err.ctx.command_path if err.ctx else "cloud-inspect"
        what = err.format_message().rstrip(".")
        return _failed(argv, USAGE, "usage", f"{what}. See `{where} --help`." if what else f"See `{where} --help`.")
    except CloudError as err:
        return _failed(argv, err.exit_code, err.code, str(err))
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _failed(argv: Sequence[str], exit_code: int, code: str, message: str) -> int:
    """One line for a person; who asked with --json and got no object yet, gets the same as one."""
    line = " ".join(message.split())
    if exit_code != USAGE and not line.endswith(f"[{code}]"):
        line = f"{line} [{code}]"
    sys.stderr.write(f"cloud-inspect: {line}\n")
    if "--json" in argv and not output.emitted:
        output.emit({"ok": False, "exit_code": exit_code, "error": line, "code": code})
    return exit_code


if __name__ == "__main__":
    main()
