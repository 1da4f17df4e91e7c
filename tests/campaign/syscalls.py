"""SIGKILL at every file system call of an outbox's put, mark and prune; then the file is opened again and looked at.

    python -m tests.campaign.syscalls                # every point, all four beginnings
    python -m tests.campaign.syscalls --every 25     # a sample

How the calls are counted and killed at: see `kill_points`. Beginnings: no file yet, a file that was closed, one whose
owner was killed, a damaged one. Afterwards the outbox is opened by the daemon's code, takes one more report, and is
read back with `sqlite3`: see `ledger`. A kill is not a power cut: what was written stays written (`power_cuts` cuts).
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edge_inspect.delivery import outbox_reserve
from edge_inspect.delivery.outbox import FILE_NAME, Outbox, Row
from edge_wire.messages import DefectReport
from tests.campaign import zygote
from tests.campaign.kill_points import Kills
from tests.campaign.ledger import Ledger, Pen, ask, broken_promises, rows, summary
from tests.edge.delivery.reports import DEVICE, UTC_NS, report

HOUR_NS = 3600 * 10**9
CAP_BYTES = 4 << 20
RESERVE_BYTES, PIECE_BYTES, GROW_PAGES = 1 << 16, 1 << 14, 16
"""The reserve's measures, small: the same steps, not repeated thousands of times."""
AFTER = 90_000
"""Part of the report that the opened outbox takes after the kill."""
SIDES = ("-wal", "-shm")
BEGINNINGS = ("new", "closed", "killed", "damaged")


@dataclass(frozen=True)
class Beginning:
    """A folder to copy for each run, and the ledger of what was put into it."""

    name: str
    folder: Path
    ledger: Path
    lost: frozenset[int] = frozenset()


def open_outbox(folder: Path, now_ns: int) -> Outbox:
    outbox_reserve.RESERVE_BYTES, outbox_reserve.PIECE_BYTES = RESERVE_BYTES, PIECE_BYTES
    outbox_reserve.GROW_PAGES = GROW_PAGES
    return Outbox(folder / FILE_NAME, device=DEVICE, cap_bytes=CAP_BYTES, retain_s=3600, utc_ns=lambda: now_ns)


def put(box: Outbox, pen: Pen, parts: list[int], picture_bytes: int = 2000) -> None:
    pen.doing("put", parts)
    pen.put(parts, box.put_many([report(part, picture_bytes=picture_bytes) for part in parts]))


def waiting(box: Outbox) -> list[tuple[Row, DefectReport]]:
    return [(row, DefectReport.from_bytes(box.payload(row.number, picture=False))) for row in box.window(200)]


def acknowledge_rows(box: Outbox, pen: Pen, count: int) -> None:
    """The oldest ones: sent, then acknowledged."""
    chosen = waiting(box)[:count]
    parts = [found.part.number for _, found in chosen]
    box.mark_sent([row.number for row, _ in chosen])
    pen.doing("ack", parts)
    box.ack_rows([row.number for row, _ in chosen])
    pen.acked(parts)


def acknowledge_range(box: Outbox, pen: Pen, parts: list[int]) -> None:
    """By their numbers."""
    ids = [found.id for _, found in waiting(box) if found.part.number in parts]
    pen.doing("ack", parts)
    box.ack_ranges(ids[0].epoch, [(ids[0].seq, ids[-1].seq)])
    pen.acked(parts)


def put_mark_prune(folder: Path, ledger: Path) -> None:
    """What is killed: all that the daemon does with its outbox, once."""
    pen = Pen(ledger)
    box = open_outbox(folder, UTC_NS + 3 * HOUR_NS)
    put(box, pen, [1001])
    put(box, pen, [1002, 1003, 1004])
    put(box, pen, list(range(1005, 1025)), picture_bytes=6_000)  # the file grows
    acknowledge_rows(box, pen, 3)
    acknowledge_range(box, pen, [1005, 1006])
    pen.doing("prune", [])
    box.prune()
    put(box, pen, [1025])
    box.refill()
    box.close()


def begin(root: Path) -> Iterator[Beginning]:
    """The four folders that runs begin with."""
    for name in BEGINNINGS:
        folder, ledger = root / name, root / f"{name}.ledger"
        folder.mkdir()
        ledger.touch()
        if name != "new":
            _fill(root, folder, ledger, killed=name == "killed")
        if name == "damaged":
            whole = (folder / FILE_NAME).read_bytes()
            at = whole.index(b'"number":40,') // 4096 * 4096
            (folder / FILE_NAME).write_bytes(whole[:at] + os.urandom(4096) + whole[at + 4096 :])
            (folder / f"{FILE_NAME}-wal").unlink()
        yield Beginning(
            name, folder, ledger, _lost_without_a_kill(folder, ledger) if name == "damaged" else frozenset()
        )


def _fill(root: Path, folder: Path, ledger: Path, *, killed: bool) -> None:
    pen = Pen(ledger)
    box = open_outbox(folder, UTC_NS)
    for first in range(1, 61, 4):
        put(box, pen, list(range(first, first + 4)))
    acknowledge_rows(box, pen, 5)
    if killed:
        shutil.copytree(folder, root / "as-it-was")
    box.close()
    if killed:
        shutil.rmtree(folder)
        (root / "as-it-was").rename(folder)


def _lost_without_a_kill(folder: Path, ledger: Path) -> frozenset[int]:
    """What the damage itself costs: acknowledged reports are not carried over either."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        copy = Path(place) / "copy"
        shutil.copytree(folder, copy)
        open_outbox(copy, UTC_NS).close()
        return frozenset(set(Ledger.read(ledger).put) - {row.part for row in rows(copy / FILE_NAME)})


def run_once(beginning: Beginning, *options: str) -> tuple[int, str, list[str]]:
    """One process under strace with `options`, then the opening after it: exit status, trace, broken promises."""
    with (
        tempfile.TemporaryDirectory(prefix="syscalls-", dir="/dev/shm") as place,
        tempfile.TemporaryDirectory(prefix="syscalls-ledger-") as elsewhere,
    ):
        folder, ledger = Path(place) / "state", Path(elsewhere) / "ledger"
        shutil.copytree(beginning.folder, folder)
        shutil.copy(beginning.ledger, ledger)
        status, trace = zygote.traced(lambda: put_mark_prune(folder, ledger), *options)
        book = Ledger.read(ledger)
        if zygote.forked(lambda: _open_after(folder, ledger)) != 0:
            return status, trace, ["the outbox could not be opened and put to afterwards"]
        after = Ledger.read(ledger)
        book.put[AFTER] = after.put[AFTER]
        found = rows(folder / FILE_NAME)
        wrong = broken_promises(book, found, lost=beginning.lost)
        held = ask(folder / FILE_NAME, "SELECT count(*), min(number), sum(length(filler)) FROM reserve")
        if held != [f"{RESERVE_BYTES // PIECE_BYTES}|2|{RESERVE_BYTES}"]:
            wrong.append(f"the reserve is not whole: {held}")
        set_aside = [path.name for path in folder.iterdir() if ".broken-" in path.name and path.name[-4:] not in SIDES]
        if len(set_aside) != (beginning.name == "damaged") or (folder / f"{FILE_NAME}.new").exists():
            wrong.append(f"left lying: {sorted(path.name for path in folder.iterdir())}")
        return status, trace, wrong


def _open_after(folder: Path, ledger: Path) -> None:
    box = open_outbox(folder, UTC_NS + 3 * HOUR_NS)
    put(box, Pen(ledger), [AFTER])
    for row in box.window(10_000):
        DefectReport.from_bytes(box.payload(row.number))
    box.refill()
    box.close()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="take only every n-th point")
    parser.add_argument("--beginnings", nargs="+", choices=BEGINNINGS, default=list(BEGINNINGS))
    options = parser.parse_args(arguments)
    if reason := zygote.reason_not_to():
        print(summary("syscalls", 0, 0, skipped=reason))
        return 1
    kills = Kills("syscalls", options.every)
    with tempfile.TemporaryDirectory(prefix="syscalls-", dir="/dev/shm") as root:
        for beginning in begin(Path(root)):
            if beginning.name in options.beginnings:
                kills.at_every_call_of(beginning.name, partial(run_once, beginning))
    return kills.over()


if __name__ == "__main__":
    raise SystemExit(main())
