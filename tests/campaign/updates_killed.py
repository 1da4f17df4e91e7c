"""SIGKILL at every file system call of an update; then the device is started again and looked at.

    python -m tests.campaign.updates_killed                        # every point of all four
    python -m tests.campaign.updates_killed --every 40 --of upgrade

How the calls are counted and killed at: see `kill_points`. What is killed: a first install; an upgrade; a person's
rollback; an upgrade that removes an old package, old parts and rubbish. The process is the daemon's updater with its
real store, machine, TUF client and shelf, on a repository in files; only the line and the probe are played. A person
whose rollback was not answered asks again. Bad is: after the kill a start that does not begin, within 10 s, with the
old or the new model, verified; a floor that fell; a package or a history that is not what it should be; more than 3
starts until the update is through. `update_device.wrong_on_disk` judges.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.campaign import zygote
from tests.campaign.kill_points import Kills
from tests.campaign.ledger import summary
from tests.campaign.update_device import Device, World, be_quiet, wrong_on_disk

MOST_STARTS = 3
WITHIN_S = 10.0
NAMES = ("install", "upgrade", "rollback", "clean-up")


@dataclass(frozen=True)
class Story:
    """A folder to begin with, what is done, and what must come of it."""

    name: str
    folder: Path
    release: int
    old: str
    new: str
    sequence: int
    """The floor that was there."""
    ask: Callable[[Device], None] = lambda device: None


def stories(root: Path, world: World) -> Iterator[Story]:
    def lived(name: str, *releases: int) -> Path:
        device = Device(root / name, world)
        device.root.mkdir()
        for release in releases:
            assert zygote.forked(lambda release=release: device.drive(release)) == 0  # type: ignore[misc]
        return device.root

    yield Story("install", lived("install"), 1, "factory", "a", 0)
    yield Story("upgrade", lived("upgrade", 1), 2, "a", "b", 1)
    yield Story("rollback", lived("rollback", 1, 2), 2, "b", "a", 2, ask=lambda device: device.ask_back())
    unclean = lived("clean-up", 1, 2)
    _litter(unclean)
    yield Story("clean-up", unclean, 3, "b", "c", 2)


def _litter(root: Path) -> None:
    """What other updates may have left."""
    models = root / "models"
    (models / "staging" / ("ab" * 32 + ".part")).write_bytes(b"half of something")
    (models / "blobs" / ("cd" * 32)).write_bytes(b"nobody's")
    half = models / "packages" / ("ef" * 32 + ".tmp")
    half.mkdir()
    (half / "manifest.json").write_bytes(b"{")
    (root / "update" / "state.json.tmp").write_bytes(b'{"format":')


def run_once(story: Story, world: World, starts_s: list[float], *options: str) -> tuple[int, str, list[str]]:
    """One process under strace with `options`, then starts: exit status, trace, what is wrong.

    `starts_s` gets how long each start took.
    """
    with tempfile.TemporaryDirectory(prefix="updates-", dir="/dev/shm") as place:
        device = Device(Path(place) / "state", world)
        shutil.copytree(story.folder, device.root)
        story.ask(device)
        begun = Path(place) / "begun"
        status, trace = zygote.traced(lambda: device.drive(story.release, begun), *options)
        wrong = wrong_on_disk(device, least_sequence=story.sequence)
        if status not in (0, zygote.SIGKILLED) and begun.exists() and begun.stat().st_size:
            wrong.append(f"it ended by itself ({status}) while a model judged")
        floor = device.sequence()
        starts, judging = 0, Path(place) / "judging"
        while starts < MOST_STARTS:
            starts += 1
            judging.unlink(missing_ok=True)
            began_s = time.time()
            ended = zygote.forked(lambda: device.drive(story.release, judging))
            begun_with = device.name_of(judging.read_text()) if judging.exists() else "nothing"
            starts_s.append(_seconds(judging, began_s))
            if starts_s[-1] > WITHIN_S:
                wrong.append(f"a start took {starts_s[-1]:.1f} s")
            if begun_with not in (story.old, story.new):
                wrong.append(f"a start began with {begun_with}")
            if ended == 0 and device.active() == story.new:
                break
            if not device.answered():  # who asked has heard nothing, and asks again
                story.ask(device)
        if device.active() != story.new:
            wrong.append(f"after {starts} starts {device.active()} judges")
        wrong += wrong_on_disk(device, least_sequence=max(floor, story.sequence))
        wrong += [f"left lying: {left}" for left in device.litter() if left not in (story.old, story.new)]
        return status, trace, wrong


def _seconds(judging: Path, began_s: float) -> float:
    """From the start to the moment when a verified model could judge."""
    return judging.stat().st_mtime - began_s if judging.exists() else 2 * WITHIN_S


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="take only every n-th point")
    parser.add_argument("--of", nargs="+", choices=NAMES, default=list(NAMES))
    options = parser.parse_args(arguments)
    if reason := zygote.reason_not_to():
        print(summary("updates_killed", 0, 0, skipped=reason))
        return 1
    be_quiet()
    kills, starts_s = Kills("updates_killed", options.every), [0.0]
    with tempfile.TemporaryDirectory(prefix="updates-", dir="/dev/shm") as place:
        root = Path(place)
        world = World.make(root / "world")
        for story in stories(root, world):
            if story.name in options.of:
                kills.at_every_call_of(story.name, partial(run_once, story, world, starts_s))
    return kills.over(slowest_start_s=round(max(starts_s), 2))


if __name__ == "__main__":
    raise SystemExit(main())
