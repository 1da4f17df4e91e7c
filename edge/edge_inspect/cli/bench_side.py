"""The sides of a benchmark: each in a process of its own, stopped while another one is timed, in turns A B A B.

Why: two runtimes in one process made the one that ran second 1.6 times slower, because thread pools spin; and what a
machine does besides (a noisy neighbour, a clock that drops) then hits both sides alike.

    with Side("cpu", worker_command(settings)) as ours, Side("theirs", [...]) as theirs:
        samples = take_turns([(ours, "bare"), (theirs, "predict")], rounds=5, frames=40)
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from edge_inspect.errors import Refusal

START_S = 180.0
ANSWER_S = 300.0
SETTLE_FRAMES = 5
"""Run and thrown away after a side was woken: caches and clocks are cold."""


class Side:
    """A process that says `{"ready": true, ...}`, then answers one order a line. It is stopped unless it is asked."""

    def __init__(self, name: str, command: Sequence[str], env: dict[str, str] | None = None) -> None:
        self.name = name
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
        )
        self._buffer = b""
        self._complaint = b""
        try:
            self.about = self._answer(START_S)
        except BaseException:
            self.close()
            raise
        self._put_to_sleep()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, frames: int) -> dict[str, list[float]]:
        """Wake the side, let it run `frames` frames of workload `do`, put it to sleep again; milliseconds a frame."""
        self._process.send_signal(signal.SIGCONT)
        try:
            self._order(do, SETTLE_FRAMES)
            answer: dict[str, list[float]] = self._order(do, frames)
            return answer
        finally:
            self._put_to_sleep()

    def close(self) -> None:
        """End the process; it may be stopped or already gone."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _put_to_sleep(self) -> None:
        """Returns when the process really stands still, or is gone."""
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def _order(self, do: str, frames: int) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, "frames": frames}).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer(ANSWER_S)

    def _answer(self, timeout_s: float) -> Any:
        """The next line on the side's stdout that is a JSON object; chatter in between is skipped."""
        until = time.monotonic() + timeout_s
        while True:
            line = self._line(until)
            if line.startswith(b"{"):
                return json.loads(line)

    def _line(self, until: float) -> bytes:
        out, err = self._process.stdout, self._process.stderr
        assert out is not None and err is not None
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([out, err], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise Refusal(f"benchmark side {self.name} did not answer in time")
            if err in ready:
                self._complaint = (self._complaint + os.read(err.fileno(), 65536))[-2000:]
            if out in ready:
                chunk = os.read(out.fileno(), 65536)
                if not chunk:
                    raise Refusal(f"benchmark side {self.name} ended: {self._last_words()}")
                self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _last_words(self) -> str:
        assert self._process.stderr is not None
        told = self._complaint + self._process.stderr.read()
        lines = told.decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else f"exit code {self._process.wait()}"


def worker_command(settings: dict[str, Any]) -> list[str]:
    """The command line of one of our own sides (see bench_worker)."""
    return [sys.executable, "-m", "edge_inspect.cli.bench_worker", json.dumps(settings)]


def take_turns(
    turns: Sequence[tuple[Side, str]], rounds: int, frames: int
) -> dict[tuple[str, str], dict[str, list[float]]]:
    """Every turn once a round, the order reversed in every second round; all samples by (side, workload)."""
    samples: dict[tuple[str, str], dict[str, list[float]]] = {}
    for number in range(rounds):
        for side, do in turns if number % 2 == 0 else reversed(turns):
            for what, times in side.ask(do, frames).items():
                samples.setdefault((side.name, do), {}).setdefault(what, []).extend(times)
    return samples


def percentiles(times_ms: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99 and max of the samples, ms, rounded to the microsecond."""
    ordered = sorted(times_ms)
    picked = {f"p{share}": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 90, 99)}
    return {name: round(value, 3) for name, value in {**picked, "max": ordered[-1]}.items()}
