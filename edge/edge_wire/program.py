"""How a program of ours begins and ends, for whoever calls it: a shell, a script, a supervisor.

1. Ctrl-C ends it without a word, whenever it comes: 130. While modules are imported it ends the process by the signal
   itself, which shells call 130, too. A signal that was ignored at the start stays ignored.
2. Whoever reads stdout may go away (`| head`): the program ends quietly with 141, as tools do that SIGPIPE ends.
   SIGPIPE itself stays ignored: a daemon must not end because a peer of one of its sockets goes.
3. A stdout that takes nothing (a full disk, /dev/full) is one line on stderr and 74.

    if __name__ == "__main__":
        run_program("edge-inspect", "edge_inspect.cli")       # calls its `main`

What is imported here takes a few milliseconds, in which Python still shows a traceback; as it does while it starts.
"""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Callable

INTERRUPTED = 130


class dies_of_ctrl_c:
    """For imports, which leave nothing behind: Python would show a traceback through all of them.

    A class, because contextlib would be one more import before this works.
    """

    def __enter__(self) -> None:
        self.is_ours = _let_ctrl_c_end_us()

    def __exit__(self, *_: object) -> None:
        if self.is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def run_program(name: str, module: str) -> None:
    """Call `main` of `module`, and end. Raises SystemExit."""
    with dies_of_ctrl_c():
        from edge_wire.stdout import StdoutLost, guarded

        stdout = sys.stdout = guarded(sys.stdout)
        main = importlib.import_module(module).main
    try:
        _run(main, stdout.flush)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except StdoutLost as lost:
        if not lost.is_reader_gone:
            sys.stderr.write(f"{name}: {lost}\n")
        sys.exit(lost.exit_code)
    finally:
        _let_ctrl_c_end_us()  # Python would show where its own end was interrupted


def _run(main: Callable[[], None], flush: Callable[[], None]) -> None:
    try:
        main()
    except SystemExit:
        flush()
        raise


def _let_ctrl_c_end_us() -> bool:
    """False where somebody else has a say in it: it is ignored, or handled; or this is not the main thread."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    except ValueError:
        return False
    return True
