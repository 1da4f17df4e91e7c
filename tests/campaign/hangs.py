"""Every thread made to hang, over and over, while this program plays systemd; and what must not be taken for a hang.

    python -m tests.campaign.hangs --each 20 --calm 5 --stop-s 60        # about 10 minutes, 5 daemons at a time

A hang counts as passed when the process has ended by itself within SEEN_S, its log names the thread and shows its
stack at the very call, and a new process gave its first verdict within BACK_S. The clock is this program's; it starts
when the fault is injected. In the cases UNREAD the process's stderr is a full pipe that nobody reads: there is no log
to look at, but the end must come as soon. A calm case (disk stalled for 5 s, clock set by ten years there and back,
SIGSTOP) counts as passed when the process lives, the watchdog was fed in time, and verdicts go on.

With SIGSTOP the process cannot feed a watchdog, and a real systemd with WatchdogSec=10 rightly ends it after 10 s; what
is tested is that *we* do not end it when it goes on. A suspended machine stops systemd's clock as well.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.campaign.hanging_daemon import HANGS
from tests.full_pipe import Pipe, full_pipe
from tests.line.conftest import RECIPE
from tests.mosquitto import KEEPS_EVERYTHING, Mosquitto
from tests.sim.preload import built
from tests.sim.tiny_model import write_tiny_package

ROOT = Path(__file__).resolve().parents[2]
SEEN_S, BACK_S = 15.0, 10.0
WATCHDOG_S = 10.0
TEN_YEARS_S = 10 * 365 * 86_400
START_S = 120.0
THREADS = ("grab-camera", "inspect", "courier", "outbox", "vitals", "line-line-socket")
UNREAD = ("inspect", "outbox")
"""Hang once more, and nobody reads the log: a thread with the shortest patience and one with the longest."""
WHERE = {"outbox": "put_many"}
"""What the stack must show; else the injected call itself."""


@dataclass
class Limits:
    """What fails a campaign; short forms on busy machines wait longer, the figures are told all the same."""

    seen_s: float = SEEN_S
    back_s: float = BACK_S
    fed_s: float = WATCHDOG_S


class Supervisor:
    """systemd, as far as one service sees it: NOTIFY_SOCKET, the watchdog's clock, the process, its stderr."""

    def __init__(self, folder: Path, words: list[str], environ: dict[str, str], unread: Pipe | None) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.unread = unread
        self._words, self._environ = words, environ
        self._notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notifications.bind(str(folder / "notify"))
        self._verdicts: list[float] = []
        self.fed: list[float] = []
        self.process: subprocess.Popen[bytes] | None = None
        self._readers: list[threading.Thread] = []
        self._closed = threading.Event()
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> float:
        """A new process; when, on the monotonic clock. Its log begins anew."""
        environ = {
            **os.environ, **self._environ, "NOTIFY_SOCKET": str(self.folder / "notify"),
            "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)), "PYTHONPATH": f"{ROOT}:{ROOT / 'edge'}",
        }  # fmt: skip
        environ.pop("WATCHDOG_PID", None)
        self._verdicts, self.fed, begun = [], [], time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-m", "tests.campaign.hanging_daemon", *self._words],
                env=environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=self.unread.write_end if self.unread else log,
            )  # fmt: skip
        self._readers.append(threading.Thread(target=self._read, args=(self.process, self._verdicts)))
        self._readers[-1].start()
        return begun

    def verdicts(self, since: float = 0.0) -> list[float]:
        """When each verdict came."""
        return [at for at in list(self._verdicts) if at >= since]

    def wait_for_verdict(self, since: float = 0.0, within_s: float = START_S) -> float:
        """When the first one after `since` came."""
        until = time.monotonic() + within_s
        while not (came := self.verdicts(since)):
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"no verdict: {self.log.read_text()[-3000:]}")
            time.sleep(0.02)
        return came[0]

    def cpu_s(self) -> float:
        """Processor time that the process has had: what its start costs on a machine that others use as well."""
        assert self.process is not None
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        if self.process is not None:
            self.process.wait(timeout=30)
        self._closed.set()
        for thread in (*self._readers, self._listener):
            thread.join(timeout=30)
        self._notifications.close()

    @staticmethod
    def _read(process: subprocess.Popen[bytes], verdicts: list[float]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for _ in lines:
                verdicts.append(time.monotonic())

    def _listen(self) -> None:
        while not self._closed.is_set():
            if select.select([self._notifications], [], [], 0.2)[0] and b"WATCHDOG=1" in self._notifications.recv(4096):
                self.fed.append(time.monotonic())


class Campaign:
    """A broker, a model and a recipe for all; one supervisor with its own state directory for each case."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.limits = limits
        self.failures: list[str] = []
        self._folder = folder
        self._model = write_tiny_package(folder / "model")
        (folder / "spots.toml").write_text(RECIPE)
        self.broker = Mosquitto(folder / "broker", *KEEPS_EVERYTHING).start()
        self._number = 0
        self._lock = threading.Lock()

    def supervisor(self, unread: Pipe | None = None, **environ: str) -> Supervisor:
        with self._lock:
            self._number += 1
            folder = self._folder / f"case-{self._number}"
        words = [str(folder / "state"), str(self._model), str(self._folder / "spots.toml"), self.broker.url]
        return Supervisor(folder, words, {"STALL_FILE": str(folder / "stall"), **environ}, unread)

    def check(self, fine: bool, what: str, log: Path) -> None:
        if not fine:
            tail = log.read_text()[-6000:]
            self.failures.append(what)
            print(f"FAILED: {what}\n{tail}", file=sys.stderr, flush=True)

    # Hangs

    def hang_unread(self, thread: str, times: int) -> list[dict[str, float]]:
        """As `hang`, with a log that nobody reads."""
        with full_pipe() as pipe:
            return self.hang(thread, times, pipe)

    def hang(self, thread: str, times: int, unread: Pipe | None = None) -> list[dict[str, float]]:
        """Let `thread` hang, see the process end and the next one begin, `times` times on one state directory."""
        played = self.supervisor(unread=unread, LD_PRELOAD=str(built("stall_shim.c")))
        stall, figures = played.folder / "stall", []
        try:
            played.start()
            for number in range(times):
                played.wait_for_verdict()
                time.sleep(1.5)  # every thread is past its start
                figures.append(self._one_hang(played, thread, stall))
                print(f"{thread} {number + 1}/{times}: {figures[-1]}", file=sys.stderr, flush=True)
        finally:
            stall.unlink(missing_ok=True)
            played.end()
        return figures

    def _one_hang(self, played: Supervisor, thread: str, stall: Path) -> dict[str, float]:
        assert played.process is not None
        begun = time.monotonic()
        if thread == "outbox":
            stall.touch()
        else:
            played.process.send_signal(signal.SIGRTMIN + HANGS.index(thread))
        try:
            code: int | None = played.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            code = None
        seen_s = time.monotonic() - begun
        stall.unlink(missing_ok=True)
        self.check(code == 1, f"{thread}: ended with {code}", played.log)
        self.check(seen_s <= self.limits.seen_s, f"{thread}: seen after {seen_s:.1f} s", played.log)
        if played.unread is None:
            self.check(names(played.log.read_text(), thread), f"{thread}: not named with its stack", played.log)
        if code is None:
            played.process.kill()
            played.process.wait()
        back_s = played.wait_for_verdict(since=(started := played.start())) - started
        self.check(back_s <= self.limits.back_s, f"{thread}: first verdict after {back_s:.1f} s", played.log)
        return {"seen_s": round(seen_s, 2), "back_s": round(back_s, 2), "back_cpu_s": round(played.cpu_s(), 2)}

    # What is no hang

    def calm(self, case: str, times: int, body: Callable[[Supervisor, int], None], **environ: str) -> dict[str, float]:
        """Run `body` `times` times on one process; it must live, be fed in time and go on judging."""
        played = self.supervisor(None, **environ)
        try:
            played.start()
            played.wait_for_verdict()
            time.sleep(1.5)
            for number in range(times):
                body(played, number)
                came = played.wait_for_verdict(since=time.monotonic(), within_s=60)
                assert played.process is not None
                self.check(played.process.poll() is None, f"{case}: the process ended", played.log)
                print(f"{case} {number + 1}/{times}: next verdict at {came:.1f}", file=sys.stderr, flush=True)
            self.check("thread.hangs" not in played.log.read_text(), f"{case}: a hang was seen", played.log)
        finally:
            played.end()
        return {"n": times, "judged": len(played.verdicts())}

    def disk_stalls(self, times: int, stall_s: float = 5.0) -> dict[str, float]:
        def body(played: Supervisor, _: int) -> None:
            stall, begun = played.folder / "stall", time.monotonic()
            stall.touch()
            time.sleep(stall_s)
            stall.unlink()
            during = len(played.verdicts(begun))
            self.check(during > 1, f"disk stall: {during} verdicts meanwhile", played.log)
            time.sleep(5)
            self._check_fed("disk stall", played, begun)

        return self.calm("disk stall", times, body, LD_PRELOAD=str(built("stall_shim.c")))

    def clock_jumps(self, times: int, hold_s: float = 15.0) -> dict[str, float]:
        clock = self._folder / "clock"
        clock.write_text(f"{0:+012d}\n")

        def body(played: Supervisor, _: int) -> None:
            for jump_s in (TEN_YEARS_S, -TEN_YEARS_S, 0):
                begun = time.monotonic()
                with clock.open("r+") as file:  # in place, all at once
                    file.write(f"{jump_s:+012d}\n")
                time.sleep(hold_s)
                self._check_fed(f"clock {jump_s:+} s", played, begun)
                self.check(len(played.verdicts(begun)) > 1, f"clock {jump_s:+} s: no verdicts", played.log)

        return self.calm("clock jump", times, body, LD_PRELOAD=str(built("clock_shim.c")), CLOCK_FILE=str(clock))

    def stops(self, times: int, stop_s: float) -> dict[str, float]:
        def body(played: Supervisor, _: int) -> None:
            assert played.process is not None
            played.process.send_signal(signal.SIGSTOP)
            time.sleep(stop_s)
            played.process.send_signal(signal.SIGCONT)
            begun = time.monotonic()
            time.sleep(14)  # longer than anybody's patience
            self._check_fed("SIGSTOP", played, begun)

        return self.calm("SIGSTOP", times, body)

    def _check_fed(self, case: str, played: Supervisor, since: float) -> None:
        """Since then the watchdog was never left for longer than its time."""
        moments = [since, *(at for at in list(played.fed) if at > since), time.monotonic()]
        longest = max(later - earlier for earlier, later in pairwise(moments))
        self.check(longest <= self.limits.fed_s, f"{case}: not fed for {longest:.1f} s", played.log)


def unread(thread: str) -> str:
    return f"{thread}, log unread"


def names(log: str, thread: str) -> bool:
    """The log says which thread hangs, and its stack shows where."""
    lines = [json.loads(line) for line in log.splitlines() if '"thread.hangs"' in line]
    if not lines or thread not in (lines[-1]["thread"], *lines[-1]["others"]):
        return False
    stack = log.rpartition(lines[-1]["stacks"].get(thread, "none"))[2].partition("\n\n")[0]
    return WHERE.get(thread, "never_returns") in stack


def run(each: int, calm: int, stop_s: float, hold_s: float, limits: Limits, side_by_side: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="hangs-"))
    campaign = Campaign(folder, limits)
    try:
        with ThreadPoolExecutor(side_by_side) as pool:
            quiet = {  # the longest first
                "disk_stall_5_s": pool.submit(campaign.disk_stalls, calm),
                "clock_10_years": pool.submit(campaign.clock_jumps, calm, hold_s),
                f"sigstop_{stop_s:g}_s": pool.submit(campaign.stops, calm, stop_s),
            }
            hangs = {thread: pool.submit(campaign.hang, thread, each) for thread in THREADS}
            hangs |= {unread(thread): pool.submit(campaign.hang_unread, thread, each) for thread in UNREAD}
            figures = {thread: future.result() for thread, future in hangs.items()}
            kept = {case: future.result() for case, future in quiet.items()}
    finally:
        campaign.broker.kill()
        shutil.rmtree(folder, ignore_errors=True)
    n = each * len(hangs)
    bound = 3 / n if n and not campaign.failures else None
    return {
        "campaign": "hangs", "n": n, "failures": campaign.failures, "bound": bound,
        "hangs": {thread: worst(found) for thread, found in figures.items()}, "calm": kept,
    }  # fmt: skip


def worst(figures: list[dict[str, float]]) -> dict[str, float]:
    return {"n": len(figures), **{f"{key}_max": max(one[key] for one in figures) for key in figures[0]}}


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--each", type=int, default=20, help="hangs of each thread")
    words.add_argument("--calm", type=int, default=5, help="times of each calm case")
    words.add_argument("--stop-s", type=float, default=60.0, help="length of a SIGSTOP")
    words.add_argument("--hold-s", type=float, default=15.0, help="how long each wrong clock is held")
    words.add_argument("--side-by-side", type=int, default=4, help="daemons at a time")
    given = words.parse_args()
    result = run(given.each, given.calm, given.stop_s, given.hold_s, Limits(), given.side_by_side)
    print(json.dumps(result), flush=True)
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
