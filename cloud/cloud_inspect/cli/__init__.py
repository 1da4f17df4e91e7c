"""`cloud-inspect`: take reports in, look at them, train, pack and release models; one file a family of commands.

A refusal is one line on stderr, `cloud-inspect: <what is wrong>`, and the exit code of its error; no traceback.
Exit codes: 0 done, 1 failed, 64 usage, 78 settings or database.
"""

from __future__ import annotations

import sys
from importlib import metadata

import typer

from cloud_inspect.cli import database, ingest, release, reports, train
from cloud_inspect.errors import CloudError


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
    """Entry point of `cloud-inspect`."""
    try:
        code = app(standalone_mode=False)
    except CloudError as err:
        sys.stderr.write(f"cloud-inspect: {err}\n")
        sys.exit(err.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except Exception as err:
        exit_code = getattr(err, "exit_code", None)
        message = getattr(err, "format_message", None)
        if message is None or exit_code is None:
            raise
        sys.stderr.write(f"cloud-inspect: {message()}\n")
        sys.exit(64)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
