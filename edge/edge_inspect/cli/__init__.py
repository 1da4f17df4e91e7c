"""`edge-inspect`: one file a family of commands; the bare form `edge-inspect --camera /dev/video0` means `run`.

Exit codes: 0 done, 1 failed, 64 usage, 74 stdout takes nothing, 75 in use, 78 configuration, 130 Ctrl-C, 141 nobody
reads stdout any more. Every refusal is one line on stderr.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib import metadata

import typer

from edge_inspect.cli import output
from edge_inspect.cli.single import UsageError, failed
from edge_inspect.errors import InspectError, Usage
from edge_wire.program import INTERRUPTED, dies_of_ctrl_c

COMMAND_FILES = (
    "run", "demo", "replay", "watch", "bench", "doctor", "config", "camera", "model", "status", "outbox", "evidence",
    "sim", "line",
)  # fmt: skip


def build_app(families: Sequence[str] = COMMAND_FILES) -> typer.Typer:
    """The command line, each family from its own file; only those named are imported."""
    app = typer.Typer(
        name="edge-inspect",
        help="Watches a production line: every part judged OK / NG / UNKNOWN in time, only defects leave over MQTT.",
        epilog="Example: edge-inspect --camera /dev/video0 --mqtt mqtt://broker   (the bare form means `run`)",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", help="Print the version.", is_eager=True, callback=_tell_version
        ),
    ) -> None:
        """Only --version belongs to the whole; click runs this before a command."""

    for name in families:
        importlib.import_module(f"edge_inspect.cli.{name}").add(app)
    return app


def main(argv: list[str] | None = None) -> None:
    """Console entry point."""
    sys.exit(run_command(list(sys.argv[1:] if argv is None else argv)))


def run_command(argv: list[str]) -> int:
    """Run one command line; the exit code. All errors that a user may meet end here, as one line."""
    output.emitted = False
    if argv and argv[0].startswith("-") and argv[0] not in ("-h", "--help", "--version"):
        argv = ["run", *argv]
    # A daemon that starts on a small box does not wait for the imports of commands that it does not run.
    families = tuple(argv[:1]) if argv[:1] and argv[0] in COMMAND_FILES else COMMAND_FILES
    with dies_of_ctrl_c():
        command = typer.main.get_command(build_app(families))
    try:
        code = command.main(args=argv, prog_name="edge-inspect", standalone_mode=False)
    except UsageError as err:
        where = err.ctx.command_path if err.ctx else "edge-inspect"
        what = err.format_message().rstrip(".")
        said = f"{what}. See `{where} --help`." if what else f"See `{where} --help`."
        return failed("edge-inspect", argv, Usage.exit_code, said)
    except InspectError as err:
        return failed("edge-inspect", argv, err.exit_code, str(err), err.code)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edge-inspect {metadata.version('edge-inspect')}")
        raise typer.Exit
