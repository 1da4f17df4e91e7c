"""Lines for a stream that nobody reads, or slowly, or not any more: who hands them over never waits."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

import pytest
import structlog

from edge_inspect.cli.log import log_aside
from edge_inspect.printing import MOST_WAITING, Printer
from tests.full_pipe import full_pipe, read_all

WAIT_S = 30.0
AT_ONCE_S = 2.0
"""Far less than for ever, on a machine that is busy elsewhere."""


@contextmanager
def printer_into(stream: TextIO | None) -> Iterator[Printer]:
    printer = Printer("test", lambda: stream)
    printer.start()
    try:
        yield printer
    finally:
        printer.close(0.05)
        printer._thread.join(WAIT_S)


def wait_for(happened: Callable[[], bool]) -> None:
    until_s = time.monotonic() + WAIT_S
    while not happened():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_lines_come_out_in_their_order_made_by_the_printing_thread() -> None:
    makers: list[str] = []
    stream = io.StringIO()

    def line(number: int) -> Callable[[], str]:
        def make() -> str:
            makers.append(threading.current_thread().name)
            return f"{number}\n"

        return make

    with printer_into(stream) as printer:
        for number in range(100):
            printer.hand_over(line(number))
        assert printer.close(WAIT_S)
    assert stream.getvalue().split() == [str(number) for number in range(100)]
    assert set(makers) == {"print-test"}


def test_a_full_pipe_holds_up_nobody_and_what_was_lost_is_said_once_it_is_read() -> None:
    with full_pipe() as pipe, os.fdopen(os.dup(pipe.write_end), "w") as stream, printer_into(stream) as printer:
        begun_s = time.monotonic()
        for number in range(MOST_WAITING + 500):
            printer.hand_over(lambda number=number: f"line {number}\n")  # type: ignore[misc]
        assert time.monotonic() - begun_s < AT_ONCE_S
        assert 499 <= printer.lost <= 500  # one may be in the thread's hands
        reader = threading.Thread(target=read_all, args=(pipe,))
        reader.start()
        assert printer.flush(WAIT_S)
        wait_for(lambda: b"not printed" in pipe.came)
        printer.hand_over(lambda: "and on\n")
        assert printer.close(WAIT_S)
        stream.close()
        pipe.close_write_end()
        reader.join(WAIT_S)
    lines = pipe.came.decode().splitlines()
    told = [line for line in lines if "not printed" in line]
    assert told == [f"({printer.lost} lines were not printed: nobody took them)"]
    assert [line for line in lines if line.startswith("line ")] == [
        f"line {number}" for number in range(MOST_WAITING + 500 - printer.lost)
    ]
    assert lines[-1] == "and on"


def test_the_end_does_not_wait_for_whom_nobody_reads() -> None:
    with full_pipe() as pipe, os.fdopen(os.dup(pipe.write_end), "w") as stream, printer_into(stream) as printer:
        printer.hand_over(lambda: "x\n")
        begun_s = time.monotonic()
        assert not printer.close(0.2)
        assert time.monotonic() - begun_s < AT_ONCE_S
        printer._thread.join(WAIT_S)
        assert not printer._thread.is_alive()
        printer.hand_over(lambda: "too late\n")
        assert printer.lost == 2


@pytest.mark.parametrize("kind", ["reader gone", "no stream", "closed"])
def test_whoever_reads_no_more_ends_nothing(kind: str) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as stream:
        if kind == "closed":
            stream.close()
        with printer_into(None if kind == "no stream" else stream) as printer:
            for _ in range(3):
                printer.hand_over(lambda: "x\n")
            assert printer.close(WAIT_S)
            assert printer.lost == 3


def test_a_long_line_comes_whole_through_a_small_pipe() -> None:
    long = "x" * 300_000
    with (
        full_pipe(fill=False) as pipe,
        os.fdopen(os.dup(pipe.write_end), "w") as stream,
        printer_into(stream) as printer,
    ):
        fcntl.fcntl(pipe.write_end, 1031, 4096)  # F_SETPIPE_SZ
        reader = threading.Thread(target=read_all, args=(pipe,))
        reader.start()
        printer.hand_over(lambda: f"{long}é\n")
        assert printer.close(WAIT_S)
        stream.close()
        pipe.close_write_end()
        reader.join(WAIT_S)
    assert pipe.came.decode() == f"{long}é\n"


def test_a_line_that_cannot_be_made_is_said_and_the_next_one_comes() -> None:
    stream = io.StringIO()
    with printer_into(stream) as printer:
        printer.hand_over(lambda: str(1 / 0))
        printer.hand_over(lambda: "next\n")
        assert printer.close(WAIT_S)
    assert stream.getvalue().splitlines() == ["a line could not be made: ZeroDivisionError('division by zero')", "next"]


def test_the_daemons_log_has_what_libraries_say_and_is_whole_when_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(), log_aside("info", "json"):
        warnings.simplefilter("always")
        structlog.get_logger().info("daemon.ready", cameras=["one"])
        logging.getLogger("asyncio").error("Exception in callback %s", "seven")
        warnings.warn("old", RuntimeWarning, stacklevel=1)
    structlog.get_logger().warning("after")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["daemon.ready", "library.says", "library.says", "after"]
    assert (lines[0]["cameras"], lines[0]["level"]) == (["one"], "info")
    assert (lines[1]["library"], lines[1]["said"]) == ("asyncio", "Exception in callback seven")
    assert "RuntimeWarning: old" in lines[2]["said"]
    assert "_Libraries" not in str(logging.getLogger().handlers)


PROGRAM = """
import sys, structlog
from edge_inspect.cli.log import log_aside
from edge_inspect.errors import Refusal
with log_aside("info", "json"):
    structlog.get_logger().info("said")
    if sys.argv[1] == "refused":
        raise Refusal("no")
    if sys.argv[1] == "bug":
        raise RuntimeError("no")
"""


@pytest.mark.parametrize(("how", "code"), [("well", 0), ("refused", 1), ("bug", 1)])
def test_the_process_ends_with_its_code_even_if_nobody_reads_why(how: str, code: int) -> None:
    with full_pipe() as pipe:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, how], stderr=pipe.write_end)
        assert process.wait(60) == code
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert json.loads(done.stderr.splitlines()[0])["event"] == "said"
    assert (how == "well") == (len(done.stderr.splitlines()) == 1)
