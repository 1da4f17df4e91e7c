"""What lies on the disk of the box: no odd name leads elsewhere, no kill and no full disk leaves half a package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edge_inspect.errors import NoSpace, SourceGone, StorageFailing, Untrusted
from edge_inspect.update import shelf as shelf_module
from edge_inspect.update.fetch import FetchSettings
from edge_inspect.update.offers import read_offer
from edge_inspect.update.shelf import Shelf
from edge_inspect.update.take import Taker
from tests.edge.update.boxes import QUICK, fetch, source, trust
from tests.edge.update.first_release import ONNX, check, packages, repository, server, settings
from tests.sim.tuf_repository import PRODUCT, Fault, TufRepository, TufServer

__all__ = ["packages", "repository", "server", "settings"]


def test_package_that_rotted_is_made_anew(settings: FetchSettings, server: TufServer) -> None:
    offer = fetch(settings)
    assert offer is not None and offer.package is not None
    model = offer.package / "model.onnx"
    model.chmod(0o600)
    model.write_bytes(model.read_bytes()[:-1] + b"?")  # the blob is the same file
    with pytest.raises(Untrusted) as caught:
        check(settings)
    assert caught.value.code == "digest-mismatch"
    fetch(settings)
    check(settings)
    assert len(server.asked(ONNX)) == 2


def test_kill_in_the_middle_leaves_what_the_next_look_goes_on_with(settings: FetchSettings, server: TufServer) -> None:
    size = len(next(content for path, content in server.repository.files.items() if path.endswith("model.onnx")))
    server.faults[ONNX] = Fault(cut_after=size // 2, times=1)
    server.faults["targets/*"] = Fault(times=0)
    with pytest.raises(SourceGone):
        fetch(replace(settings, limits=replace(QUICK, tries=0)))
    assert read_offer(settings.models_dir, PRODUCT, "stable") is None
    assert not list((settings.models_dir / "packages").iterdir())
    fetch(settings)
    assert server.sent_of(ONNX) == size
    check(settings)


def test_disk_without_room_refuses_before_the_first_byte(
    settings: FetchSettings, server: TufServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Disk:
        f_bavail, f_frsize = 300, 1 << 20

    monkeypatch.setattr(shelf_module.os, "statvfs", lambda path: Disk)
    full = replace(settings, limits=replace(QUICK, min_free_bytes=300 << 20))
    with pytest.raises(NoSpace, match="no-space"):
        fetch(full)
    assert not server.asked("targets/*")
    fetch(replace(settings, limits=replace(QUICK, min_free_bytes=298 << 20)))


def test_package_larger_than_the_cap_is_refused(settings: FetchSettings, server: TufServer) -> None:
    with pytest.raises(Untrusted) as caught:
        fetch(replace(settings, limits=replace(QUICK, cap_bytes=1000)))
    assert caught.value.code == "package-too-large"
    assert not server.asked(ONNX)


ODD_NAMES = ["../../escape", "/absolute", "a b", "ü/ö", "q?x#y", "%2e%2e/x", "n" * 5000, "a/../../b", "x\ny", "."]


@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
def test_odd_target_name_is_no_path_on_this_box(name: str, tmp_path: Path) -> None:
    repository = TufRepository(products=())
    repository.put("targets", name, b"odd")
    repository.publish("targets", bump=False)
    shelf = Shelf(tmp_path / "models")
    with TufServer(repository) as server, shelf.hold():
        seen = trust(shelf.trust, server)
        taker = Taker(shelf, seen, source(tries=0))
        info = seen.target(name)
        try:
            assert taker.take(info).read_bytes() == b"odd"
        except SourceGone as err:
            assert err.code == "http-404"  # a server need not understand it
    assert {path.name for path in tmp_path.iterdir()} == {"models"}
    assert {path.name for path in shelf.blobs.iterdir()} <= {info.hashes["sha256"]}


def test_digest_that_is_no_digest_is_no_path_either(tmp_path: Path) -> None:
    repository = TufRepository(products=())
    repository.put("targets", "x", b"odd")
    repository.signed("targets").targets["x"].hashes = {"sha256": "../../../escape"}
    repository.publish("targets", bump=False)
    shelf = Shelf(tmp_path / "models")
    with TufServer(repository) as server, shelf.hold(), pytest.raises(Untrusted) as caught:
        seen = trust(shelf.trust, server)
        Taker(shelf, seen, source()).take(seen.target("x"))
    assert caught.value.code == "target-digest"


def test_two_fetchers_do_not_meet(settings: FetchSettings) -> None:
    shelf = Shelf(settings.models_dir)
    with shelf.hold():
        with pytest.raises(StorageFailing, match="another process"):
            with shelf.hold(wait_s=0.2):
                pass
    with shelf.hold(wait_s=0.2):
        pass


def test_package_is_copied_where_there_are_no_links(settings: FetchSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(self: Path, target: Path) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", cannot)
    fetch(settings)
    check(settings)
