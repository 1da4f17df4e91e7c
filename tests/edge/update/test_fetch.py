"""One look at a repository: what is for this box comes here whole and is offered; nothing else is."""

from __future__ import annotations

import json
import shutil
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs
from tuf.api.metadata import TargetFile

from edge_inspect.errors import BadModel, NoSpace, SourceGone, StorageFailing, Untrusted
from edge_inspect.update import offline
from edge_inspect.update import shelf as shelf_module
from edge_inspect.update.fetch import FetchSettings, import_from
from edge_inspect.update.known import Known, read_known
from edge_inspect.update.offers import read_offer
from edge_inspect.update.offline import check_offline
from edge_inspect.update.shelf import Shelf
from edge_inspect.update.take import Taker
from edge_wire.release import Rollout, channel_target, file_target
from tests.edge.update.boxes import QUICK, fetch, on_disk, settings_for, source, trust
from tests.sim.tiny_model import write_tiny_package
from tests.sim.tuf_repository import PRODUCT, ROLE, Fault, TufRepository, TufServer

ONNX = "targets/*model.onnx"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("packages")
    return {
        version: write_tiny_package(folder / version, version=version, classes=("scratch", "dent")[: 1 + (i > 0)])
        for i, version in enumerate(("1.0.0", "1.1.0"))
    }


@pytest.fixture
def repository(packages: dict[str, Path]) -> TufRepository:
    repository = TufRepository()
    repository.release(packages["1.0.0"], sequence=5)
    return repository


@pytest.fixture
def server(repository: TufRepository) -> Iterator[TufServer]:
    with TufServer(repository) as server:
        yield server


@pytest.fixture
def settings(server: TufServer, tmp_path: Path) -> FetchSettings:
    return settings_for(tmp_path / "models", server.repository, server.url)


def check(settings: FetchSettings) -> str:
    """VERIFY as the daemon does it; the digest of what it may take."""
    assert settings.root is not None
    offer, package = check_offline(settings.models_dir, settings.root, PRODUCT, "stable")
    assert package is not None
    assert package.digest == offer.rollout.model.digest
    return package.digest


def test_rollout_for_this_box_is_fetched_offered_and_verified_without_network(
    settings: FetchSettings, packages: dict[str, Path]
) -> None:
    offer = fetch(settings)
    assert offer is not None and offer.package is not None
    assert on_disk(offer.package) == on_disk(packages["1.0.0"])
    assert check(settings) == offer.rollout.model.digest
    assert all(not path.stat().st_mode & 0o222 for path in offer.package.rglob("*") if path.is_file())
    assert list((settings.models_dir / "staging").iterdir()) == []


def test_second_look_fetches_nothing_again(settings: FetchSettings, server: TufServer) -> None:
    fetch(settings)
    asked = len(server.requests)
    again = fetch(settings)
    assert again is not None
    assert [request.path for request in server.requests[asked:]] == ["metadata/2.root.json", "metadata/timestamp.json"]


def test_newer_release_fetches_only_what_is_new(
    settings: FetchSettings, server: TufServer, packages: dict[str, Path]
) -> None:
    fetch(settings)
    server.repository.release(packages["1.1.0"], sequence=6)
    asked = len(server.requests)
    offer = fetch(settings)
    assert offer is not None and offer.rollout.sequence == 6
    assert check(settings) == offer.rollout.model.digest
    assert not [request for request in server.requests[asked:] if request.path.endswith("spot.png")]


@pytest.mark.parametrize("audience", [{"sites": ["plant2"]}, {"lines": ["press-5"]}, {"devices": ["edge-0018", "x*"]}])
def test_rollout_for_others_is_left_alone(
    audience: dict[str, list[str]], settings: FetchSettings, server: TufServer, packages: dict[str, Path]
) -> None:
    server.repository.release(packages["1.0.0"], sequence=6, audience=audience)
    assert fetch(settings) is None
    assert not server.asked(ONNX)
    assert read_offer(settings.models_dir, PRODUCT, "stable") is None


def test_older_rollout_is_refused_whoever_signed_it(
    settings: FetchSettings, server: TufServer, packages: dict[str, Path]
) -> None:
    fetch(settings)
    server.repository.release(packages["1.1.0"], sequence=4)
    with pytest.raises(Untrusted) as caught:
        fetch(settings)
    assert caught.value.code == "rollout-older"
    with pytest.raises(Untrusted) as caught:
        fetch(replace(settings, models_dir=settings.models_dir.parent / "other", known=lambda: Known(sequence=7)))
    assert caught.value.code == "rollout-older"
    assert not [request for request in server.requests if "1.1.0" in request.path]


def test_rollout_that_changed_under_its_sequence_is_refused(
    settings: FetchSettings, server: TufServer, packages: dict[str, Path]
) -> None:
    first = fetch(settings)
    assert first is not None
    server.repository.release(packages["1.1.0"], sequence=5)
    with pytest.raises(Untrusted) as caught:
        fetch(settings)
    assert caught.value.code == "rollout-changed"
    assert check(settings) == first.rollout.model.digest
    server.repository.release(packages["1.1.0"], sequence=6)
    assert fetch(settings) is not None


@pytest.mark.parametrize(("known", "offered"), [(5, False), (4, True)])
def test_rollout_that_is_settled_need_not_come_again(known: int, offered: bool, settings: FetchSettings) -> None:
    found = fetch(replace(settings, known=lambda: Known(sequence=known, settled=True)))
    assert (found is not None) == offered


def test_refused_digest_is_not_fetched_but_what_is_revoked_is_told(
    settings: FetchSettings, server: TufServer, packages: dict[str, Path]
) -> None:
    first = fetch(settings)
    assert first is not None
    revoked = first.rollout.model.digest
    rollout = server.repository.release(packages["1.1.0"], sequence=6, revoked=[revoked])
    known = Known(sequence=5, refused=frozenset({rollout.model.digest}), in_use=frozenset({revoked}))
    offer = fetch(replace(settings, known=lambda: known))
    assert offer is not None and offer.package is None
    assert offer.rollout.revoked == (revoked,)
    assert not [request for request in server.requests if "1.1.0" in request.path]
    assert settings.root is not None
    verified, package = check_offline(settings.models_dir, settings.root, PRODUCT, "stable")
    assert (verified.rollout.revoked, package) == ((revoked,), None)


def test_what_nobody_needs_is_removed_and_what_is_in_use_never(
    settings: FetchSettings, server: TufServer, packages: dict[str, Path]
) -> None:
    first = fetch(settings)
    assert first is not None
    shelf = Shelf(settings.models_dir)
    stray = shelf.package("sha256:" + "ab" * 32)
    shutil.copytree(packages["1.0.0"], stray)
    shelf.part("cd" * 32).write_bytes(b"left")
    (shelf.packages / "mine").mkdir()
    second = server.repository.release(packages["1.1.0"], sequence=6)
    fetch(settings)
    assert stray.is_dir(), "nobody said what is in use"
    fetch(replace(settings, known=lambda: Known(in_use=frozenset({first.rollout.model.digest}))))
    assert {path.name for path in shelf.packages.iterdir()} == {
        first.rollout.model.digest[7:], second.model.digest[7:], "mine",
    }  # fmt: skip
    assert list(shelf.staging.iterdir()) == []
    fetch(replace(settings, known=lambda: Known(in_use=frozenset())))
    assert {path.name for path in shelf.packages.iterdir()} == {second.model.digest[7:], "mine"}
    check(settings)


def test_what_the_daemon_takes_during_a_look_is_not_removed(
    settings: FetchSettings, server: TufServer, packages: dict[str, Path]
) -> None:
    """A look may take hours; what is in use is asked when something is to be removed, not when it begins."""
    first = fetch(settings)
    assert first is not None and first.package is not None
    asked: list[bool] = []

    def known() -> Known:
        asked.append(bool(asked))
        return Known(in_use=frozenset({first.rollout.model.digest} if asked[-1] else ()))

    second = server.repository.release(packages["1.1.0"], sequence=6)
    fetch(replace(settings, known=known))
    assert first.package.is_dir()
    fetch(replace(settings, known=lambda: Known(in_use=frozenset())))
    assert [path.name for path in first.package.parent.iterdir()] == [second.model.digest[7:]]


def logged(settings: FetchSettings, looks: int) -> list[str]:
    structlog.reset_defaults()  # whatever level a command before set for its process
    with capture_logs() as lines:
        for _ in range(looks):
            fetch(settings)
    return [line["event"] for line in lines]


def test_rollout_for_others_is_logged_once(
    settings: FetchSettings, server: TufServer, packages: dict[str, Path]
) -> None:
    """A box looks every ten minutes, for years."""
    for sequence in (6, 7):
        server.repository.release(packages["1.0.0"], sequence=sequence, audience={"devices": ["edge-0018"]})
        assert logged(settings, 3) == ["a rollout for others"]


def test_state_that_cannot_be_read_is_logged_once(settings: FetchSettings, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    changes = settings.changes
    known = partial(read_known, tmp_path / "state.json", PRODUCT, "stable", changes)
    assert logged(replace(settings, known=known), 3) == [
        "the daemon's state cannot be read, nothing is removed", "offered",
    ]  # fmt: skip


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


def sign_rollout(repository: TufRepository, content: bytes) -> None:
    repository.put(ROLE, channel_target(PRODUCT, "stable"), content)
    repository.publish(ROLE)


def changed(repository: TufRepository, **changes: object) -> bytes:
    path = max(path for path in repository.files if path.endswith("stable.json"))
    said = json.loads(repository.files[path])
    for name, value in changes.items():
        said[name] = {**said[name], **value} if isinstance(value, dict) else value
    return json.dumps(said).encode()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"product": "gears"}, "rollout-product"),
        ({"channel": "beta"}, "rollout-channel"),
        ({"sequence": 0}, "rollout-broken"),
        ({"frobnicate": 1}, "rollout-broken"),
        ({"model": {"version": "9.9.9"}}, "target-unknown"),
        ({"model": {"digest": "sha256:" + "0" * 64}}, "rollout-digest"),
        ({"released_at": "2099-01-01T00:00:00Z"}, "rollout-in-future"),
    ],
)
def test_signed_rollout_that_makes_no_sense_is_refused(
    change: dict[str, object], code: str, settings: FetchSettings, server: TufServer
) -> None:
    sign_rollout(server.repository, changed(server.repository, **change))
    with pytest.raises(Untrusted) as caught:
        fetch(settings)
    assert caught.value.code == code
    assert not server.asked(ONNX)


def test_rollout_of_another_model_of_the_same_product_is_found_out(
    settings: FetchSettings, server: TufServer, packages: dict[str, Path]
) -> None:
    """The manifest's own name and version must be those of the rollout, wherever it lies."""
    repository = server.repository
    for name, content in on_disk(packages["1.0.0"]).items():
        repository.put(ROLE, file_target(PRODUCT, "tiny", "2.0.0", name), content)
    sign_rollout(repository, changed(repository, model={"version": "2.0.0"}))
    with pytest.raises(Untrusted) as caught:
        fetch(settings)
    assert caught.value.code == "rollout-model"


def test_rollout_too_large_is_not_fetched(settings: FetchSettings, server: TufServer) -> None:
    sign_rollout(server.repository, b" " * 70_000)
    with pytest.raises(Untrusted) as caught:
        fetch(settings)
    assert caught.value.code == "rollout-too-large"
    assert not server.asked("targets/*")


def test_other_file_signed_under_the_models_name_is_refused(settings: FetchSettings, server: TufServer) -> None:
    """Same version, other bytes: the rollout's digest covers the manifest, the manifest every file."""
    server.repository.put(ROLE, file_target(PRODUCT, "tiny", "1.0.0", "model.onnx"), b"other")
    server.repository.publish(ROLE)
    with pytest.raises(Untrusted) as caught:
        fetch(settings)
    assert caught.value.code == "target-not-manifest"


def test_package_that_breaks_its_own_contract_never_appears(
    settings: FetchSettings, server: TufServer, packages: dict[str, Path], tmp_path: Path
) -> None:
    """Right signatures over a model that cannot be: refused before it has a name."""
    broken = tmp_path / "broken"
    shutil.copytree(packages["1.0.0"], broken)
    said = json.loads((broken / "manifest.json").read_text())
    said["variants"][0]["input"]["name"] = "pictures"
    (broken / "manifest.json").write_text(json.dumps(said))
    server.repository.release(broken, sequence=6)
    with pytest.raises(BadModel) as caught:
        fetch(settings)
    assert caught.value.code == "input-name"
    assert list((settings.models_dir / "packages").iterdir()) == []


def test_usb_stick_is_verified_like_the_network(repository: TufRepository, tmp_path: Path) -> None:
    stick = tmp_path / "a stick"
    repository.write_to(stick)
    settings = settings_for(tmp_path / "models", repository, "")
    offer = import_from(stick, settings, threading.Event())
    assert offer is not None
    check(settings)
    model = next(path for path in stick.rglob("*model.onnx"))
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    fresh = replace(settings, models_dir=tmp_path / "fresh")
    with pytest.raises(Untrusted) as caught:
        import_from(stick, fresh, threading.Event())
    assert caught.value.code == "target-digest"
    model.unlink()
    model.symlink_to("/dev/zero")
    with pytest.raises(SourceGone) as gone:
        import_from(stick, fresh, threading.Event())
    assert gone.value.code == "unreadable"
    with pytest.raises(Untrusted) as caught:
        import_from(tmp_path, fresh, threading.Event())
    assert caught.value.code == "not-a-repository"


def test_old_stick_cannot_bring_back_what_was_left_behind(
    settings: FetchSettings, server: TufServer, packages: dict[str, Path], tmp_path: Path
) -> None:
    server.repository.write_to(tmp_path / "stick")
    server.repository.release(packages["1.1.0"], sequence=6)
    fetch(settings)
    with pytest.raises(Untrusted) as caught:
        import_from(tmp_path / "stick", settings, threading.Event())
    assert caught.value.code == "metadata-rollback"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda said: said.update(content=said["content"].replace("A. Tester", "B. Tester")), "target-digest"),
        (lambda said: said["metadata"].pop("timestamp.json"), "offer-broken"),
        (lambda said: said["metadata"].update({"timestamp.json": "{}"}), "metadata-broken"),
        (lambda said: said.update(metadata=[1]), "offer-broken"),
        (lambda said: said.pop("content"), "offer-broken"),
        (lambda said: said.update(package="../../etc"), "offer-broken"),
        (lambda said: said.update(format=2), "offer-broken"),
        (lambda said: said.pop("format"), "offer-broken"),
    ],
    ids=["content", "no-timestamp", "timestamp", "list", "no-content", "path", "newer", "no-format"],
)
def test_offer_that_was_tampered_with_is_refused_offline(spoil, code: str, settings: FetchSettings) -> None:  # type: ignore[no-untyped-def]
    fetch(settings)
    path = settings.models_dir / "offers" / f"{PRODUCT}-stable.json"
    said = json.loads(path.read_text())
    spoil(said)
    path.write_text(json.dumps(said))
    with pytest.raises((Untrusted, SourceGone)) as caught:
        check(settings)
    assert caught.value.code == code


def test_file_is_hashed_without_being_in_memory(tmp_path: Path) -> None:
    """A model may have 512 MiB."""
    size = 64 << 20
    with (tmp_path / "model.onnx").open("wb") as stream:
        stream.truncate(size)
    info = TargetFile.from_file("model.onnx", str(tmp_path / "model.onnx"))
    tracemalloc.start()
    try:
        offline.check(tmp_path / "model.onnx", info)
        assert tracemalloc.get_traced_memory()[1] < size // 8
    finally:
        tracemalloc.stop()


def test_stale_offer_is_put_off_until_it_was_fetched_again(settings: FetchSettings, server: TufServer) -> None:
    fetch(settings)
    late = datetime.now(timezone.utc) + timedelta(days=31)
    assert settings.root is not None
    with pytest.raises(Untrusted) as caught:
        check_offline(settings.models_dir, settings.root, PRODUCT, "stable", clock=lambda: late)
    assert caught.value.code == "metadata-expired"
    for role in ("targets", ROLE, "snapshot", "timestamp"):
        server.repository.signed(role).expires = late + timedelta(days=30)
    server.repository.root.expires = late + timedelta(days=30)
    server.repository.publish("root", "targets", ROLE)
    fetch(replace(settings, clock=lambda: late))
    check_offline(settings.models_dir, settings.root, PRODUCT, "stable", clock=lambda: late)


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


def test_rollout_says_the_same_on_both_sides(settings: FetchSettings) -> None:
    offer = fetch(settings)
    assert offer is not None
    again = read_offer(settings.models_dir, PRODUCT, "stable")
    assert again is not None
    assert (again.rollout, again.content, again.package) == (offer.rollout, offer.content, offer.package)
    assert Rollout.model_validate_json(again.content) == offer.rollout
