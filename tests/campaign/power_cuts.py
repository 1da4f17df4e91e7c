"""Power cuts: an ext4 image on a loop device, copied at a random moment while reports are put, mounted and recovered.

    sudo python -m tests.campaign.power_cuts --cuts 200
    sudo python -m tests.campaign.power_cuts --cuts 20 --synchronous NORMAL    # must lose reports: the harness can fail

A process puts, marks and prunes on the image and writes what was acknowledged to it into a ledger on another file
system. At a random moment the power is cut (`loop_disk`: how, and its limits); the ledger is read first. The outbox is
opened from what the disk then holds, by the daemon's code, and read back with `sqlite3`. Then the process goes on.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_inspect.delivery import outbox_file as file_module
from edge_inspect.delivery.outbox import FILE_NAME, Outbox
from edge_wire.messages import DefectReport
from tests.campaign import zygote
from tests.campaign.ledger import Ledger, Pen, broken_promises, rows, summary
from tests.campaign.loop_disk import LoopDisk, reason_not_to
from tests.edge.delivery.reports import DEVICE, UTC_NS, report

CAP_BYTES = 8 << 20
HOUR_NS = 3600 * 10**9


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


def recover(disk: LoopDisk, book: Ledger) -> tuple[list[str], int]:
    """Open the outbox as it was at the cut, put to it; broken promises, and how many reports were lost."""
    with disk.after_cut() as folder:
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


def cut(disk: LoopDisk, ledger: Path, rng: random.Random, number: int) -> tuple[list[str], int, int]:
    """One power cut: broken promises, reports lost, reports acknowledged before it."""
    book = disk.cut(rng.uniform(0.01, 0.35), lambda: Ledger.read(ledger))
    wrong, lost = recover(disk, book)
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
    disk, seed = LoopDisk(root), rng.randrange(2**32)
    with disk.worked_on(lambda folder: put_for_ever(folder, ledger, synchronous, seed)):
        while not ledger.exists() or len(Ledger.read(ledger).put) < 20:
            time.sleep(0.01)
        for number in range(count):
            yield cut(disk, ledger, rng, number)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--synchronous", choices=("FULL", "NORMAL"), default="FULL")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    if reason := reason_not_to("sqlite3"):
        print(summary("power_cuts", 0, 0, skipped=reason))
        return 1
    failed, lost, put = campaign(options.cuts, options.synchronous, options.seed)
    print(summary("power_cuts", options.cuts, failed, lost=lost, put=put, synchronous=options.synchronous))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
