"""Power cuts: an ext4 image on a loop device, copied at a random moment while reports are put, mounted and recovered.

    sudo python -m tests.campaign.power_cuts --cuts 200
    sudo python -m tests.campaign.power_cuts --cuts 20 --synchronous NORMAL    # must lose reports: the harness can fail

A process puts, marks and prunes on the image and writes what was acknowledged to it into a ledger on another file
system. At a random moment it is stopped (SIGSTOP); the ledger is read first, then the file behind the loop device is
copied: what the kernel had not written to the "disk" is lost, as at a power cut. The copy is mounted (ext4 replays its
journal), the outbox opened by the daemon's code, and read back with `sqlite3`. Then the process goes on.

Limits: the disk does what it is told (one that lies about flushing is not modelled), and it loses everything unsynced
at once, in no other order. Needs root and loop devices.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_inspect.delivery import outbox_file as file_module
from edge_inspect.delivery.outbox import FILE_NAME, Outbox
from edge_wire.messages import DefectReport
from tests.campaign import zygote
from tests.campaign.ledger import Ledger, Pen, broken_promises, rows, summary
from tests.edge.delivery.reports import DEVICE, UTC_NS, report

IMAGE_BYTES = 64 << 20
CAP_BYTES = 8 << 20
HOUR_NS = 3600 * 10**9


def reason_not_to() -> str:
    """Why no power can be cut here; empty if it can."""
    if os.geteuid() != 0:
        return "mounting needs root"
    missing = [tool for tool in ("losetup", "mkfs.ext4", "mount", "sqlite3") if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if subprocess.run(["losetup", "-f"], capture_output=True, check=False).returncode != 0:
        return "no loop devices"
    return ""


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True, capture_output=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True, capture_output=True)


class Careless(sqlite3.Connection):
    """SQLite with `synchronous = NORMAL`, which says FULL when it is asked."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql == "PRAGMA synchronous":
            return super().execute("SELECT 2")
        return super().execute(sql.replace("synchronous = FULL", "synchronous = NORMAL"), *parameters)


def put_for_ever(folder: Path, ledger: Path, synchronous: str, seed: int) -> None:
    """What is cut: batches of all sizes are put, the older ones marked, acknowledged and pruned."""
    if synchronous == "NORMAL":
        real = sqlite3.connect
        file_module.sqlite3.connect = lambda *a, **k: real(*a, **{**k, "factory": Careless})  # type: ignore[assignment]
    rng = random.Random(seed)
    now_ns, part, pen = UTC_NS, 0, Pen(ledger)
    box = Outbox(folder / FILE_NAME, device=DEVICE, cap_bytes=CAP_BYTES, retain_s=3600, utc_ns=lambda: now_ns)
    while True:
        parts = list(range(part + 1, part + 1 + rng.choice((1, 1, 2, 5, 20))))
        part = parts[-1]
        pen.doing("put", parts)
        pen.put(parts, box.put_many([report(p, picture_bytes=p % 4 * 1500) for p in parts]))
        if rng.random() < 0.3:
            chosen = box.window(rng.choice((5, 40)))
            acked = [DefectReport.from_bytes(box.payload(row.number)).part.number for row in chosen]
            box.mark_sent([row.number for row in chosen])
            pen.doing("ack", acked)
            box.ack_rows([row.number for row in chosen])
            pen.acked(acked)
        if rng.random() < 0.02:
            now_ns += 2 * HOUR_NS
            pen.doing("prune", [])
            box.prune()


def recover(copy: Path, at: Path, book: Ledger) -> tuple[list[str], int]:
    """Mount the copy, open the outbox there, put to it; broken promises, and how many reports were lost."""
    with mounted(copy, at) as folder:
        if zygote.forked(lambda: _open_and_put(folder)) != 0:
            return ["the outbox could not be opened and put to after the cut"], 0
        found = [row for row in rows(folder / FILE_NAME) if row.part != 10**6]
        wrong = broken_promises(book, found)
        if any(".broken-" in path.name for path in folder.iterdir()):
            wrong.append("the file was found broken")
        there = {row.part for row in found}
        return wrong, sum(part not in there for part in book.put if not (book.pruning and part in book.maybe_acked))


def _open_and_put(folder: Path) -> None:
    box = Outbox(folder / FILE_NAME, device=DEVICE, cap_bytes=CAP_BYTES, utc_ns=lambda: UTC_NS)
    box.put(report(10**6))
    box.close()


def cut(root: Path, worker: int, ledger: Path, rng: random.Random, number: int) -> tuple[list[str], int, int]:
    """One power cut: broken promises, reports lost, reports acknowledged before it."""
    time.sleep(rng.uniform(0.01, 0.35))
    os.kill(worker, signal.SIGSTOP)
    try:
        os.waitpid(worker, os.WUNTRACED)
        book = Ledger.read(ledger)
        copy = root / "copy.img"
        subprocess.run(["cp", "--sparse=always", str(root / "disk.img"), str(copy)], check=True)
    finally:
        os.kill(worker, signal.SIGCONT)
    wrong, lost = recover(copy, root / "after", book)
    if wrong:
        print(f"cut {number}: {wrong[:3]}{' ...' if len(wrong) > 3 else ''}", file=sys.stderr, flush=True)
    return wrong, lost, len(book.put)


def campaign(cuts: int, synchronous: str, seed: int) -> tuple[int, int, int]:
    """How many cuts broke a promise, reports lost in all, reports acknowledged in all."""
    rng = random.Random(seed)
    failed = lost = put = 0
    with tempfile.TemporaryDirectory(prefix="power-", dir="/dev/shm") as place:
        root = Path(place)
        with tempfile.TemporaryDirectory(prefix="power-ledger-") as elsewhere:
            for first in range(0, cuts, 20):  # a fresh disk for every 20 cuts
                ledger = Path(elsewhere) / f"ledger-{first}"
                for number, found in enumerate(_cuts(root, ledger, synchronous, rng, min(20, cuts - first)), first + 1):
                    failed += bool(found[0])
                    lost += found[1]
                    last_put = found[2]
                    print(f"{number} cuts, {failed} broke a promise", file=sys.stderr, flush=True)
                put += last_put
    return failed, lost, put


def _cuts(
    root: Path, ledger: Path, synchronous: str, rng: random.Random, count: int
) -> Iterator[tuple[list[str], int, int]]:
    image = root / "disk.img"
    image.write_bytes(b"")
    os.truncate(image, IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", str(image)], check=True, capture_output=True)
    with mounted(image, root / "before") as folder:
        seed = rng.randrange(2**32)
        worker = zygote.start(lambda: put_for_ever(folder, ledger, synchronous, seed))
        try:
            while not ledger.exists() or len(Ledger.read(ledger).put) < 20:
                time.sleep(0.01)
            for number in range(count):
                yield cut(root, worker, ledger, rng, number)
        finally:
            os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--synchronous", choices=("FULL", "NORMAL"), default="FULL")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    if reason := reason_not_to():
        print(summary("power_cuts", 0, 0, skipped=reason))
        return 1
    failed, lost, put = campaign(options.cuts, options.synchronous, options.seed)
    print(summary("power_cuts", options.cuts, failed, lost=lost, put=put, synchronous=options.synchronous))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
