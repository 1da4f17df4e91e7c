"""Power cuts during updates: an ext4 image on a loop device, copied at a random moment, mounted and started from.

    sudo python -m tests.campaign.updates_power_cuts --cuts 200
    sudo python -m tests.campaign.updates_power_cuts --cuts 20 --without-fsync     # must fail: the harness can see it

A process takes one release after the other on the image, and now and then a person goes back; what it is doing stands
in a ledger on another file system. At a random moment the power is cut (`loop_disk`: how, and its limits), and the
device started from what is left. Bad is what `updates_killed` calls bad.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.campaign import zygote
from tests.campaign.ledger import summary
from tests.campaign.loop_disk import LoopDisk, reason_not_to
from tests.campaign.update_device import Device, World, be_quiet, wrong_on_disk

RELEASES = 120
BACK_EVERY = 4
CUTS_PER_DISK = 20
WITHIN_S = 10.0


def update_for_ever(device: Device, ledger: Path, without_fsync: bool) -> None:
    """What is cut: all releases, one after the other; after every fourth a person goes back."""
    if without_fsync:
        os.fsync = lambda handle: None
    pen = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(what: str, release: int, new: str) -> None:
        said = {"what": what, "release": release, "old": device.active(), "new": new, "floor": device.sequence()}
        os.write(pen, json.dumps(said).encode() + b"\n")

    for release in range(1, len(device.world.repositories) + 1):
        note("release", release, "abc"[(release - 1) % 3])
        device.drive(release)
        if release % BACK_EVERY == 0:
            state = json.loads(device.state.read_bytes())
            note("back", release, device.name_of(state["previous"] or device.world.digests["factory"]))
            device.ask_back()
            device.drive(release)
    os.write(pen, b'{"what": "over"}\n')
    signal.pause()


def read(ledger: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ledger.read_bytes().splitlines()] if ledger.exists() else []


def recover(disk: LoopDisk, world: World, doing: dict[str, Any], notes: Path) -> tuple[list[str], float]:
    """Start from what the cut left; what is wrong, and how long it took until a verified model could judge."""
    with disk.after_cut() as folder:
        device = Device(folder / "device", world)
        wrong = wrong_on_disk(device, least_sequence=doing["floor"])
        notes.unlink(missing_ok=True)
        began_s = time.time()
        ended = zygote.forked(lambda: device.drive(doing["release"], notes))
        took_s = notes.stat().st_mtime - began_s if notes.exists() else 2 * WITHIN_S
        begun_with = device.name_of(notes.read_text()) if notes.exists() else "nothing"
        if begun_with not in (doing["old"], doing["new"]):
            wrong.append(f"the start began with {begun_with}, not with {doing['old']} or {doing['new']}")
        wanted = {doing["new"]} | ({doing["old"]} if doing["what"] == "back" else set())  # the request may be lost
        if ended != 0 or device.active() not in wanted:
            said = json.loads(device.state.read_bytes())
            told = {key: said[key] for key in ("stage", "last_refusal", "floors")}
            wrong.append(f"it ended with {ended}, and {device.active()} is to judge: {told}")
        if took_s > WITHIN_S:
            wrong.append(f"the start took {took_s:.1f} s")
        return wrong + wrong_on_disk(device, least_sequence=doing["floor"]), took_s


def cut(disk: LoopDisk, ledger: Path, world: World, rng: random.Random) -> tuple[list[str], float]:
    doing = disk.cut(rng.uniform(0.01, 0.35), lambda: read(ledger)[-1])
    assert doing["what"] != "over", "more cuts than releases"
    wrong, took_s = recover(disk, world, doing, ledger.with_name("judging"))
    return [f"{what} (doing {doing})" for what in wrong], took_s


def cuts_on_one_disk(
    root: Path, elsewhere: Path, world: World, rng: random.Random, count: int, without_fsync: bool
) -> Iterator[tuple[list[str], float]]:
    disk, ledger = LoopDisk(root), elsewhere / "ledger"
    ledger.unlink(missing_ok=True)

    def device(folder: Path) -> Device:
        return Device(folder / "device", world)

    with disk.worked_on(
        lambda folder: update_for_ever(device(folder), ledger, without_fsync),
        lambda folder: device(folder).root.mkdir(),
    ):
        while not read(ledger):
            time.sleep(0.01)
        for _ in range(count):
            yield cut(disk, ledger, world, rng)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--without-fsync", action="store_true", help="what a careless store would lose")
    options = parser.parse_args(arguments)
    if reason := reason_not_to():
        print(summary("updates_power_cuts", 0, 0, skipped=reason))
        return 1
    be_quiet()
    rng, failed, slowest_s, number = random.Random(options.seed), 0, 0.0, 0
    with (
        tempfile.TemporaryDirectory(prefix="updates-power-", dir="/dev/shm") as place,
        tempfile.TemporaryDirectory(prefix="updates-ledger-") as elsewhere,
    ):
        root = Path(place)
        world = World.make(root / "world", min(RELEASES, 10 + 6 * options.cuts))
        while number < options.cuts:
            count = min(CUTS_PER_DISK, options.cuts - number)
            for wrong, took_s in cuts_on_one_disk(root, Path(elsewhere), world, rng, count, options.without_fsync):
                number, failed, slowest_s = number + 1, failed + bool(wrong), max(slowest_s, took_s)
                if wrong:
                    print(f"cut {number}: {wrong[:3]}", file=sys.stderr, flush=True)
            print(f"{number} cuts, {failed} bad", file=sys.stderr, flush=True)
    more = {"slowest_start_s": round(slowest_s, 2), "without_fsync": options.without_fsync}
    print(summary("updates_power_cuts", options.cuts, failed, **more))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
