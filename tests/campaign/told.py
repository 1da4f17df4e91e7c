"""SIGKILL of the whole appliance right behind an answer: whatever the line was told lies in the outbox, once.

    python -m tests.campaign.told --kills 100
    python -m tests.campaign.told --kills 100 --without-journal       # what it is good for: must fail

A line on a Unix socket fires triggers, each with a number that never comes again, and notes every answer that reaches
it. At a random answer the daemon is killed: at once, or up to `--longest-wait-ms` later. The next one starts on what
that left. At the end one life ends in good order, and the outbox is read with SQLite alone: every number that the line
was told NG or UNKNOWN must be there once, with the same verdict and reason.

A number in the outbox that the line never heard is no failure: it was killed between noting and telling, or the answer
lay in the socket when it died. A kill is not a power cut.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.sim.tiny_model import write_tiny_package

ROOT = Path(__file__).resolve().parents[2]
START_S = 120.0
LEAST_ANSWERS, MOST_ANSWERS = 1, 60
"""From readiness to the kill."""
RECIPE = """
name = "spots"
version = "1"
[classes.scratch]
threshold = 0.5
[part]
mode = "trigger"
deadline_ms = 500
"""

Told = tuple[str, str]
"""Verdict and reason."""


@dataclass
class Lives:
    """One daemon after the other on the same state, and what the line heard of all of them."""

    folder: Path
    runtime: Path | None
    told: dict[int, Told] = field(default_factory=dict)
    sequence: int = 0
    process: subprocess.Popen[bytes] | None = None
    connection: socket.socket | None = None
    unread: bytes = b""

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> None:
        """A new life; returns when it would judge a trigger."""
        command = [sys.executable, "-m", "tests.campaign.told_daemon"]
        command += [str(self.folder / name) for name in ("state", "tiny", "recipe.toml", "line.sock")]
        environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'edge'}"}
        environ.pop("RUNTIME_DIRECTORY", None)
        if self.runtime is not None:
            environ["RUNTIME_DIRECTORY"] = str(self.runtime)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
        until_s = time.monotonic() + START_S
        while True:
            assert self.process.poll() is None and time.monotonic() < until_s, self.log.read_text()[-3000:]
            try:
                self._connect()
                self._say({"status": True})
                if any(said.get("ready") for said in self._hear(1)):
                    return
            except OSError:
                pass
            time.sleep(0.02)

    def _connect(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.unread = b""
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(START_S)
        self.connection.connect(str(self.folder / "line.sock"))

    def _say(self, thing: dict[str, Any]) -> None:
        assert self.connection is not None
        self.connection.sendall(json.dumps(thing).encode() + b"\n")

    def _hear(self, lines: int) -> Iterator[dict[str, Any]]:
        """So many lines, fewer where the daemon has ended."""
        assert self.connection is not None
        while lines:
            line, end, rest = self.unread.partition(b"\n")
            if end:
                self.unread = rest
                lines -= 1
                yield json.loads(line)
                continue
            arrived = self.connection.recv(65536)
            if not arrived:
                return
            self.unread += arrived

    def fire(self, burst: int) -> None:
        """So many triggers at once: more than may wait are answered `overrun`."""
        for _ in range(burst):
            self.sequence += 1
            self._say({"trigger": self.sequence})

    def answers(self, count: int) -> None:
        """Note so many answers."""
        for said in self._hear(count):
            assert said["seq"] not in self.told, f"{said} again"
            self.told[said["seq"]] = said["verdict"], said["reason"]

    def kill(self) -> None:
        """SIGKILL; what had reached the socket by then was told, too."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(ConnectionError):
            self.answers(1 << 30)

    def end(self) -> None:
        """In good order."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=60) == 0, self.log.read_text()[-3000:]

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def play(lives: Lives, kills: int, longest_wait_s: float, rng: random.Random, say: Callable[[str], None]) -> None:
    """`kills` lives that are killed, and one that ends."""
    for number in range(kills):
        lives.start()
        wanted = len(lives.told) + rng.randint(LEAST_ANSWERS, MOST_ANSWERS)
        while len(lives.told) < wanted:
            burst = rng.choice((1, 1, 1, 2, 6))
            lives.fire(burst)
            lives.answers(burst)
        lives.fire(rng.choice((0, 1, 6)))
        time.sleep(rng.choice((0.0, rng.uniform(0, longest_wait_s))))
        lives.kill()
        if number % 10 == 9:
            say(f"{number + 1} of {kills} kills, {len(lives.told)} answers")
    lives.start()
    lives.end()


def compare(lives: Lives, kills: int) -> dict[str, Any]:
    """What the line noted against what lies in the outbox."""
    rows = sqlite3.connect(lives.folder / "state" / "outbox.sqlite3")
    reports = [json.loads(payload) for (payload,) in rows.execute("SELECT payload FROM report ORDER BY row")]
    rows.close()
    kept = Counter(report["part"]["sequence"] for report in reports)
    said = {report["part"]["sequence"]: (report["verdict"], report["reason"]) for report in reports}
    must = {sequence: told for sequence, told in lives.told.items() if told[0] != "OK"}
    return {
        "kills": kills,
        "triggers": lives.sequence,
        "answers": len(lives.told),
        "told_not_ok": len(must),
        "by_verdict": dict(Counter(" ".join(told) for told in must.values())),
        "lost": sum(sequence not in kept for sequence in must),
        "twice": sum(count - 1 for count in kept.values()),
        "otherwise": sum(sequence in said and said[sequence] != told for sequence, told in must.items()),
        "of_ok_parts": sum(lives.told.get(sequence, ("", ""))[0] == "OK" for sequence in kept),
        "recovered": sum(report.get("recovered", False) for report in reports),
        "kept_but_not_heard": sum(sequence not in lives.told for sequence in kept),
        "failure_rate_below": 3 / max(1, len(must)),
    }


def failed(result: dict[str, Any]) -> bool:
    return bool(result["lost"] or result["twice"] or result["otherwise"] or result["of_ok_parts"])


def run(
    kills: int,
    *,
    seed: int = 0,
    longest_wait_s: float = 0.02,
    without_journal: bool = False,
    in_memory: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """The campaign. `in_memory`: the journal lies in a $RUNTIME_DIRECTORY, else in the state folder."""
    folder = Path(tempfile.mkdtemp(prefix="told-"))
    runtime = Path(tempfile.mkdtemp(prefix="told-", dir="/dev/shm")) if in_memory else None
    (folder / "state").mkdir()
    (folder / "recipe.toml").write_text(RECIPE)
    write_tiny_package(folder / "tiny")
    if without_journal:
        ((runtime or folder / "state") / "told").mkdir()
    lives = Lives(folder, runtime)
    try:
        play(lives, kills, longest_wait_s, random.Random(seed), say)
        result = compare(lives, kills)
    finally:
        lives.close()
    if failed(result):
        say(f"kept: {folder}")
    else:
        shutil.rmtree(folder)
    if runtime is not None:
        shutil.rmtree(runtime)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest-wait-ms", type=float, default=20.0)
    parser.add_argument("--without-journal", action="store_true")
    parser.add_argument("--in-state-dir", action="store_true", help="the journal lies there, not in memory")
    options = parser.parse_args()

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    result = run(
        options.kills, seed=options.seed, longest_wait_s=options.longest_wait_ms / 1e3,
        without_journal=options.without_journal, in_memory=not options.in_state_dir, say=say,
    )  # fmt: skip
    print(json.dumps(result))
    return int(failed(result))


if __name__ == "__main__":
    sys.exit(main())
