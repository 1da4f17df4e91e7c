"""Who is ended, when, and who is not: hearts and clock are moved by hand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

from edge_inspect.health.notify import DISK_PATIENCE_S, PATIENCE_S, Heart, Notifier, Watchdog
from edge_inspect.health.patience import ASLEEP_S, Patience

SECOND = 1_000_000_000


class Threads:
    """Hearts by name, all beating unless told otherwise; `advance` looks ten times a second, as the main thread."""

    def __init__(self, *names: str, for_disk: Sequence[str] = ()) -> None:
        self.now_ns = 1000 * SECOND
        self.beats: dict[str, int | None] = dict.fromkeys((*names, *for_disk), self.now_ns)
        hearts = [Heart(name, lambda name=name: self.beats[name]) for name in names]
        hearts += [Heart.waits_for_disk(name, lambda name=name: self.beats[name]) for name in for_disk]
        self.ended: list[list[str]] = []
        self.patience = Patience(hearts, clock_ns=lambda: self.now_ns, end=self._end)
        self.watchdog = Watchdog(
            hearts, Notifier(None), clock_ns=lambda: self.now_ns, awake_since_ns=self.patience.awake_since_ns
        )

    def _end(self, still: Sequence[Heart]) -> None:
        self.ended.append([heart.name for heart in still])

    def advance(self, seconds: float, *, hanging: Sequence[str] = ()) -> float | None:
        """How many seconds it took until the process would have ended."""
        for tenth in range(round(seconds * 10)):
            self.now_ns += SECOND // 10
            for name in self.beats:
                if name not in hanging and self.beats[name] is not None:
                    self.beats[name] = self.now_ns
            self.patience.look()
            if self.ended:
                return (tenth + 1) / 10
        return None

    def sleep(self, seconds: float) -> None:
        """The whole process stands still: nothing beats, nobody looks."""
        self.now_ns += round(seconds * SECOND)


@pytest.mark.parametrize("name", ["grab", "inspect", "outbox", "courier", "vitals"])
def test_every_thread_that_hangs_ends_the_process_within_15_s_by_its_name(name: str) -> None:
    threads = Threads("grab", "inspect", for_disk=["outbox", "courier", "vitals"])
    assert threads.advance(20) is None
    after_s = threads.advance(20, hanging=[name])
    assert after_s is not None
    assert PATIENCE_S <= after_s < 15
    assert threads.ended[0] == [name]


def test_the_longest_hanging_is_named_first() -> None:
    threads = Threads("grab", "inspect", for_disk=["outbox", "courier"])
    threads.advance(0.5, hanging=["outbox"])
    threads.advance(20, hanging=["outbox", "courier"])
    assert threads.ended[0] == ["outbox", "courier"]


def test_five_seconds_of_a_stalled_disk_end_nothing_and_are_not_even_said() -> None:
    threads = Threads("grab", for_disk=["outbox", "courier", "vitals"])
    assert threads.advance(5, hanging=["outbox", "courier", "vitals"]) is None
    assert threads.watchdog.look()
    assert DISK_PATIENCE_S > 10


def test_a_stopped_process_gives_everybody_their_patience_anew() -> None:
    threads = Threads("grab", "inspect", for_disk=["outbox"])
    threads.advance(5, hanging=["inspect"])
    threads.sleep(60)
    threads.patience.look()
    assert not threads.ended
    assert threads.watchdog.look(), "the watchdog starves although everybody was stopped"
    after_s = threads.advance(20, hanging=["inspect"])
    assert after_s is not None, "a real hang is forgotten after a stop"
    assert after_s <= PATIENCE_S + 0.2


def test_short_pauses_of_the_looking_thread_excuse_nobody() -> None:
    threads = Threads("grab")
    for _ in range(20):
        threads.sleep(ASLEEP_S * 0.9)
        threads.patience.look()
    assert threads.ended


def test_a_call_that_was_announced_may_take_its_time() -> None:
    threads = Threads("grab", for_disk=["courier"])
    threads.beats["courier"] = threads.now_ns + 60 * SECOND
    assert threads.advance(65, hanging=["courier"]) is None
    assert threads.advance(20, hanging=["courier"]) is not None


def test_who_has_ended_in_good_order_hangs_not() -> None:
    threads = Threads("grab")
    threads.beats["grab"] = None
    assert threads.advance(60) is None


def test_the_end_names_the_thread_and_every_stack_even_if_the_log_is_a_full_pipe() -> None:
    program = """
import os, sys, threading
from edge_inspect.cli.log import configure_log
from edge_inspect.health.notify import Heart
from edge_inspect.health.patience import Patience
configure_log(form="json")
def stuck_in_a_driver(): threading.Event().wait()
threading.Thread(target=stuck_in_a_driver, name="grab-left", daemon=True).start()
if sys.argv[1] == "full":
    os.write(2, bytes(int(sys.argv[2])))
patience = Patience([Heart("grab-left", lambda: 0)], clock_ns=iter(range(0, 20 * 10**9, 10**9)).__next__)
for second in range(12):
    patience.look()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "read"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert '"thread": "grab-left"' in done.stderr
    assert "in stuck_in_a_driver" in done.stderr
    for written_bytes in (65_400, 65_536 - 1024):  # the line has no room in the pipe's 65,536; the stacks have none
        command = [sys.executable, "-c", program, "full", str(written_bytes)]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as unread:
            assert unread.wait(timeout=60) == 1
