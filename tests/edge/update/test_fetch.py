"""One look at a repository: what is for this box comes here whole and is offered; nothing else is."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from edge_inspect.errors import Untrusted
from edge_inspect.update.fetch import FetchSettings
from edge_inspect.update.known import Known, read_known
from edge_inspect.update.offers import read_offer
from edge_inspect.update.offline import check_offline
from edge_inspect.update.shelf import Shelf
from edge_wire.release import REVOCATIONS, channel_target
from tests.edge.update.boxes import fetch, on_disk
from tests.edge.update.first_release import ONNX, check, packages, repository, server, settings
from tests.sim.tuf_repository import PRODUCT, TufServer

__all__ = ["packages", "repository", "server", "settings"]


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


def test_who_revoked_what_is_read_from_what_is_signed_of_the_rollout(
    settings: FetchSettings, server: TufServer, packages: dict[str, Path]
) -> None:
    said = {"digest": "sha256:" + "d" * 64, "by": "ben", "at": "2026-11-22T08:00:00Z", "reason": "misses dents"}
    server.repository.release(packages["1.1.0"], sequence=6, revoked=[said["digest"]])
    target = server.repository.signed(f"product-{PRODUCT}").targets[channel_target(PRODUCT, "stable")]
    target.unrecognized_fields["custom"] = {REVOCATIONS: [said]}
    server.repository.publish(f"product-{PRODUCT}")
    offer = fetch(settings)
    verified, _ = check_offline(settings.models_dir, settings.root or b"", PRODUCT, "stable")
    for rollout in (offer and offer.rollout, verified.rollout):
        assert rollout is not None and [(one.by, one.reason) for one in rollout.revocations] == [
            ("ben", "misses dents")
        ]


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
