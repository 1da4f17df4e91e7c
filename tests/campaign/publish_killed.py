"""SIGKILL at every file system call of publishing: a release, a revocation, a rotation of each role, old packages out.

    python -m tests.campaign.publish_killed                # every point
    python -m tests.campaign.publish_killed --every 25     # a sample

How the calls are counted and killed at: see `kill_points`. Afterwards python-tuf's own client reads the repository,
once fresh from the first root and once with what it knew before: both must find the old release or the new one. Then
publishing is repeated: both must find the new one, no file may be wrong, nothing may be staged. A sample of the steps
is in tests/cloud/release/test_interrupted.py.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tuf.api.exceptions import DownloadError, RepositoryError

from cloud_inspect.errors import BadRelease
from cloud_inspect.release.keys import make_key, open_signers
from cloud_inspect.release.prune import leftovers, sweep
from cloud_inspect.release.publish import publish
from cloud_inspect.release.repository import load
from cloud_inspect.release.roles import Exchange, rotate
from cloud_inspect.release.rollouts import make_wish, released
from cloud_inspect.release.staging import Staging
from cloud_inspect.release.store import Store, open_store
from cloud_inspect.release.verify import StoreFetcher, verify
from tests.campaign import zygote
from tests.campaign.kill_points import Kills
from tests.campaign.ledger import summary
from tests.cloud.release.plant import PRODUCT, ROLE, Plant, Reader


def release(plant: Plant) -> None:
    plant.sign("1.1.0")


def revoke(plant: Plant) -> None:
    bad = released(PRODUCT, plant.state().product(PRODUCT), "tiny", "1.0.0")
    plant.change().revoke(PRODUCT, bad, make_wish("all", "anna", reason="misses dents"), plant.signers(f"{ROLE}-1"))


def rotation(role: str, *signers: str) -> Callable[[Plant], None]:
    def stage(plant: Plant) -> None:
        online = role in ("snapshot", "timestamp")
        key = make_key((plant.keys / "online" if online else plant.keys) / f"{role}-2.pem")
        own = [] if online else plant.signers(f"{role}-2")
        signed = rotate(plant.change(), role, Exchange((key,), (f"{role}-1",)), plant.signers(*signers), own)
        assert signed.missing == ()

    return stage


def prune(plant: Plant) -> None:
    """1.0.0 goes; its files after it."""
    plant.change().retire(PRODUCT, ["tiny/1.0.0"], plant.signers(f"{ROLE}-1"))


CHANGES = {
    "release": release,
    "revoke": revoke,
    "root": rotation("root", "root-1"),
    "targets": rotation("targets", "root-1", "targets-1"),
    "snapshot": rotation("snapshot", "root-1"),
    "timestamp": rotation("timestamp", "root-1"),
    "product": rotation(ROLE, "targets-1"),
    "prune": prune,
}


class Case:
    """A repository with one release and a staged change, and a device that has read it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.plant = Plant(folder)
        self.plant.release("1.0.0")
        self.prunes = name == "prune"
        if self.prunes:
            self.plant.release("1.1.0")
        self.old = 2 if self.prunes else 1
        self.device = folder / "device"
        Reader(self.plant.root, "store://", self.device, StoreFetcher(self.plant.store)).rollout()
        CHANGES[name](self.plant)
        self.start = Path(self.plant.url)
        self.new = 2 if name in ("release", "revoke", "prune") else 1

    def run(self, *options: str) -> tuple[int, str, list[str]]:
        """Publish once under strace with `options`: exit status, trace, what is wrong afterwards."""
        with tempfile.TemporaryDirectory(prefix="publish-", dir="/dev/shm") as place:
            folder = Path(place) / "repository"
            shutil.copytree(self.start, folder)
            store, staged = open_store(str(folder)), open_store(str(folder / "staged"))
            status, trace = zygote.traced(lambda: self._publish(store, staged), *options)
            wrong = self._read(store, Path(place) / "after", {self.old, self.new})
            try:
                self._publish(store, staged)
            except BadRelease as err:
                wrong.append(f"cannot be repeated: {err}")
            wrong += self._read(store, Path(place) / "repeated", {self.new})
            wrong += verify(store, self.plant.root).troubles
            if self.prunes and (left := leftovers(store, load(store), keep=0)):
                wrong.append(f"files that nobody names are left: {left}")
            if Staging(staged).roles():
                wrong.append("something is staged still")
            return status, trace, wrong

    def _publish(self, store: Store, staged: Store) -> None:
        if Staging(staged).roles():
            publish(store, staged, open_signers([str(self.plant.keys / "online")]), self.plant.now)
        if self.prunes:
            sweep(store, keep=0)

    def _read(self, store: Store, place: Path, allowed: set[int]) -> list[str]:
        shutil.copytree(self.device, place / "knows")
        wrong = []
        for name in ("fresh", "knows"):
            try:
                found = Reader(self.plant.root, "store://", place / name, StoreFetcher(store)).rollout().sequence
            except (RepositoryError, DownloadError, OSError, ValueError, AssertionError) as err:
                wrong.append(f"{name}: reads nothing: {type(err).__name__}: {err}")
                continue
            if found not in allowed:
                wrong.append(f"{name}: reads sequence {found}, not {sorted(allowed)}")
        return wrong


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="take only every n-th point")
    parser.add_argument("--changes", nargs="+", choices=CHANGES, default=list(CHANGES))
    options = parser.parse_args(arguments)
    if reason := zygote.reason_not_to():
        print(summary("publish_killed", 0, 0, skipped=reason))
        return 1
    kills = Kills("publish_killed", options.every)
    for name in options.changes:
        with tempfile.TemporaryDirectory(prefix="publish-", dir="/dev/shm") as root:
            kills.at_every_call_of(name, Case(Path(root), name).run)
    return kills.over()


if __name__ == "__main__":
    raise SystemExit(main())
