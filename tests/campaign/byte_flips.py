"""A byte of the outbox's file or of its WAL is another one: at a thousand random places, one at a time.

    python -m tests.campaign.byte_flips --flips 1000

After each: the outbox opens (the file set aside if SQLite finds it broken, never deleted) and takes a report; what is
there was put by us, under its number, and once; no number is given again; what is not there lies in the file set aside,
or was the last commit in the WAL (SQLite takes damage there for its torn end). A flip that no check of SQLite's can see
(inside a payload) leaves at most that one report unreadable.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from edge_inspect.delivery.outbox import FILE_NAME, Outbox
from edge_wire.messages import BadMessage, DefectReport, ReportId
from tests.campaign.ledger import summary
from tests.edge.delivery.reports import DEVICE, UTC_NS, report

REPORTS = 60
LAST_PUT = 4
"""Reports in one commit: the last one may be lost without anything set aside, as if a power cut had torn it."""
CAP_BYTES = 1 << 20
NEW_PART = 1000


def fill(folder: Path, copy: Path) -> dict[ReportId, int]:
    """An outbox with reports in the file and in the WAL, copied to `copy` while open; what was put, by number."""
    box = Outbox(folder / FILE_NAME, device=DEVICE, cap_bytes=CAP_BYTES, utc_ns=lambda: UTC_NS)
    put = {}
    for first in range(1, REPORTS + 1, 4):
        reports = [report(part, picture_bytes=part % 3 * 700) for part in range(first, first + 4)]
        put |= {number: entry.part.number for number, entry in zip(box.put_many(reports), reports, strict=True)}
        if first == REPORTS // 2 + 1:
            box.close()
            box = Outbox(folder / FILE_NAME, device=DEVICE, cap_bytes=CAP_BYTES, utc_ns=lambda: UTC_NS)
    shutil.copytree(folder, copy)
    box.close()
    return put


def used(path: Path) -> list[int]:
    """Places that hold something: flipping zeros nobody reads finds nothing out."""
    content = path.read_bytes()
    return [at for at in range(len(content)) if content[at : at + 64].strip(b"\0")]


def flip(original: Path, put: dict[ReportId, int], name: str, at: int, bits: int) -> list[str]:
    """What went wrong after one flip."""
    with tempfile.TemporaryDirectory(prefix="flip-", dir="/dev/shm") as place:
        folder = Path(place) / "state"
        shutil.copytree(original, folder)
        (folder / f"{FILE_NAME}-shm").unlink(missing_ok=True)
        with (folder / name).open("r+b") as raw:
            raw.seek(at)
            old = raw.read(1)[0]
            raw.seek(at)
            raw.write(bytes([old ^ bits]))
        box = Outbox(folder / FILE_NAME, device=DEVICE, cap_bytes=CAP_BYTES, utc_ns=lambda: UTC_NS)
        try:
            new = box.put(report(NEW_PART))
            return _judge(box, folder, put, new)
        finally:
            box.close()


def _judge(box: Outbox, folder: Path, put: dict[ReportId, int], new: ReportId) -> list[str]:
    found, unreadable = {}, 0
    for row in box.window(100_000):
        try:
            entry = DefectReport.from_bytes(box.payload(row.number))
        except BadMessage:
            unreadable += 1
            continue
        found[entry.id] = entry.part.number
    set_aside = any(".broken-" in path.name for path in folder.iterdir())
    wrong = []
    if new in put:
        wrong.append(f"{new} was given a second time")
    altered = sum(put.get(number) != part for number, part in found.items() if number != new)
    if altered + unreadable > 1:
        wrong.append(f"{altered} reports are not what was put, {unreadable} cannot be read")
    if found.get(new) != NEW_PART:
        wrong.append("the new report is not there")
    vanished = len(put.keys() - found.keys()) - altered - unreadable
    if vanished > LAST_PUT and not set_aside:
        wrong.append(f"{vanished} reports vanished")
    return wrong


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    rng = random.Random(options.seed)
    failures = 0
    with tempfile.TemporaryDirectory(prefix="flips-", dir="/dev/shm") as place:
        original = Path(place) / "copy"
        put = fill(Path(place) / "state", original)
        places = {name: used(original / name) for name in (FILE_NAME, f"{FILE_NAME}-wal")}
        for number in range(options.flips):
            name = rng.choice(sorted(places))
            at, bits = rng.choice(places[name]), rng.randrange(1, 256)
            if wrong := flip(original, put, name, at, bits):
                failures += 1
                print(f"{name} byte {at} ^ {bits:#x}: {wrong}", file=sys.stderr)
            if number % 100 == 99:
                print(f"{number + 1} flips, {failures} failures", file=sys.stderr, flush=True)
    print(summary("byte_flips", options.flips, failures, places=sum(map(len, places.values()))))
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
