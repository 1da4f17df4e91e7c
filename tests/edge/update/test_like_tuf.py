"""Side by side with tuf's own client over random histories of a repository, honest ones and attacks.

Both must succeed or fail alike, ask for the same files in the same order, leave the same metadata on disk byte for
byte, and accept the same targets. (tuf's own client is what upstream's conformance suite is run against.)
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.ngclient import Updater

from edge_inspect.errors import InspectError
from edge_inspect.update.shelf import Shelf
from edge_inspect.update.take import Taker
from tests.edge.update import test_trust as attacks
from tests.edge.update.boxes import source, start_from, trust
from tests.sim.tuf_repository import ROLE, TufRepository, TufServer

HISTORIES = int(os.environ.get("EDGE_INSPECT_HISTORIES", "25"))
TARGETS = (attacks.TARGET, "odd/x", "metal-plate/tiny/other.bin", "nobody/knows")
Change = Callable[[TufRepository, random.Random], None]


def publish(repository: TufRepository, rng: random.Random) -> None:
    repository.publish(rng.choice(("root", "timestamp", "snapshot", "targets", ROLE)))


def new_target(repository: TufRepository, rng: random.Random) -> None:
    repository.put(ROLE, rng.choice(TARGETS[:3]), rng.randbytes(rng.randrange(1, 5000)))
    repository.publish(ROLE)


def odd_role(repository: TufRepository, rng: random.Random) -> None:
    role = rng.choice(("?", "../x", "a b", "plain"))
    repository.delegate("targets", role, ["odd/*"], terminating=rng.random() < 0.5)
    repository.put(role, "odd/x", b"odd")
    repository.publish("targets", role)


def rotated(repository: TufRepository, rng: random.Random) -> None:
    role = rng.choice(("root", "timestamp", "snapshot", "targets"))
    old = repository.rotate(role)
    if rng.random() < 0.8:
        repository.signers[role] += old
    repository.publish("root")
    repository.signers[role] = repository.signers[role][:1]
    if role != "root" and rng.random() < 0.8:
        repository.publish(role)


def threshold(repository: TufRepository, rng: random.Random) -> None:
    role = rng.choice(("timestamp", "snapshot", "targets"))
    repository.add_key(role)
    repository.root.roles[role].threshold = rng.choice((1, 2, 3))
    repository.publish("root", role)


def lost_file(repository: TufRepository, rng: random.Random) -> None:
    repository.files.pop(rng.choice([name for name in repository.files if name != "metadata/1.root.json"]))


def spoiled_file(repository: TufRepository, rng: random.Random) -> None:
    name = rng.choice([name for name in repository.files if name != "metadata/1.root.json"])
    content = bytearray(repository.files[name])
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(7)
    repository.files[name] = bytes(content)


def attack(repository: TufRepository, rng: random.Random) -> None:
    every = [case for cases in attacks.ATTACKS.values() for case in cases]
    rng.choice([case for case in every if case is not attacks.nested])(repository)


CHANGES: tuple[Change, ...] = (
    publish, publish, new_target, new_target, odd_role, rotated, rotated, threshold, lost_file, spoiled_file, attack,
)  # fmt: skip


def ours(folder: Path, server: TufServer, names: list[str]) -> list[bytes] | None:
    """What was accepted; None: it failed."""
    try:
        client = trust(folder, server, root=None)
        client.refresh()
        shelf = Shelf(folder.parent / "shelf")
        with shelf.hold():
            taker = Taker(shelf, client, source(tries=0))
            return [taker.take(client.target(name)).read_bytes() for name in names]
    except InspectError:
        return None


def theirs(folder: Path, server: TufServer, names: list[str]) -> list[bytes] | None:
    targets = folder.parent / "targets"
    targets.mkdir(exist_ok=True)
    try:
        client = Updater(str(folder), f"{server.url}/metadata", str(targets), f"{server.url}/targets", bootstrap=None)
        client.refresh()
        found = []
        for name in names:
            info = client.get_targetinfo(name)
            if info is None:
                return None
            path = client.find_cached_target(info) or client.download_target(info)
            found.append(Path(path).read_bytes())
    except (RepositoryError, DownloadError, OSError, ValueError):
        return None
    return found


def metadata(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.json")}


def asked(server: TufServer) -> list[str]:
    """Files of metadata, in their order; a target is asked for only where it is not there yet."""
    names = [request.path for request in server.requests if request.path.startswith("metadata/")]
    server.requests.clear()
    return names


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_ours_does_what_tufs_own_client_does(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    repository = TufRepository()
    repository.put(ROLE, attacks.TARGET, b"first")
    repository.publish(ROLE)
    folders = {}
    for name in ("ours", "theirs"):
        folders[name] = tmp_path / name / "metadata"
        start_from(folders[name], repository.first_root)
    story: list[str] = []
    with TufServer(repository) as server:
        for _ in range(rng.randrange(2, 7)):
            for _ in range(rng.randrange(3)):
                change = rng.choice(CHANGES)
                story.append(change.__name__)
                change(repository, rng)
            names = rng.sample(TARGETS, rng.randrange(3))
            story.append(f"-> {names}")
            mine, my_requests = ours(folders["ours"], server, names), asked(server)
            other, other_requests = theirs(folders["theirs"], server, names), asked(server)
            assert mine == other, story
            assert my_requests == other_requests, story
            assert metadata(folders["ours"]) == metadata(folders["theirs"]), story
    shutil.rmtree(tmp_path)
