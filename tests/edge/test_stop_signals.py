"""What a second SIGTERM and a second Ctrl-C do to a daemon that is ending in good order."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

STUBBORN = """
import signal, sys
from edge_inspect.cli.run import stop_on_signals
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
with stop_on_signals() as stop:
    print("up", flush=True)
    stop.wait()
    print("ending", flush=True)
    sys.stdin.readline()
print("ended", flush=True)
"""


@pytest.fixture
def daemon() -> Iterator[subprocess.Popen[str]]:
    """Begins to end at the first signal, and is through when told so on stdin."""
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        process.kill()


def test_a_second_sigterm_does_not_cut_the_end_short(daemon: subprocess.Popen[str]) -> None:
    daemon.send_signal(signal.SIGTERM)
    assert daemon.stdout is not None
    assert daemon.stdout.readline() == "ending\n"
    daemon.send_signal(signal.SIGTERM)
    out, err = daemon.communicate("\n", timeout=60)
    assert (out, err, daemon.returncode) == ("ended\n", "", 0)


def test_a_second_ctrl_c_after_a_second_ends_it_at_once_and_says_so(daemon: subprocess.Popen[str]) -> None:
    daemon.send_signal(signal.SIGINT)
    assert daemon.stdout is not None
    assert daemon.stdout.readline() == "ending\n"
    with pytest.raises(subprocess.TimeoutExpired):
        daemon.wait(timeout=1.5)
    daemon.send_signal(signal.SIGINT)
    out, err = daemon.communicate(timeout=60)
    assert (out, daemon.returncode) == ("", 130)
    assert err == "edge-inspect: ended at once, by a second Ctrl-C\n"
