"""Publishing killed at steps on the disk: readers have the old release or the new one, and repeating it ends well.

Every fourth step here; `python -m tests.campaign.publish_killed` takes every one, with real processes and SIGKILL.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloud_inspect.release.publish import publish
from cloud_inspect.release.roles import Exchange, rotate
from cloud_inspect.release.store import open_store
from cloud_inspect.release.verify import StoreFetcher, verify
from tests.cloud.release.plant import Plant, Reader

EVERY = 4


class Killed(BaseException):
    """Nothing of the process is left after this."""


class Steps:
    """Every rename, unlink, rmdir and fsync below `folder` is a step; at step `last` the process is dead: that step and
    all later ones do not happen, as after SIGKILL."""

    def __init__(self, folder: Path, last: int) -> None:
        self.folder, self.last, self.count = folder, last, 0

    def take(self) -> None:
        self.count += 1
        if self.count >= self.last:
            raise Killed


@contextmanager
def killed_at(folder: Path, last: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    steps = Steps(folder, last)
    fsync = os.fsync

    def counted_fsync(handle: int) -> None:
        steps.take()
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", counted_fsync)
        for name in ("rename", "unlink", "rmdir"):
            real = getattr(Path, name)

            def counted(self: Path, *rest: object, _real: object = real, **options: object) -> object:
                if self.is_relative_to(folder):
                    steps.take()
                return _real(self, *rest, **options)  # type: ignore[operator]

            patch.setattr(Path, name, counted)
        yield steps


def publish_killed_at_steps(plant: Plant, monkeypatch: pytest.MonkeyPatch, old: str | None, new: str | None) -> int:
    """Kill at step after step until it gets through; after each, both kinds of readers read; then it is repeated."""
    folder = Path(plant.url)
    start, device = plant.folder / "start", plant.folder / "device-before"
    shutil.copytree(folder, start)
    Reader(plant.root, "store://", device, StoreFetcher(plant.store)).version()
    seen = set()
    for step in range(1, 500, EVERY):
        shutil.rmtree(folder)
        shutil.copytree(start, folder)
        done = False
        with killed_at(folder, step, monkeypatch) as steps:
            try:
                plant.publish()
                done = True
            except Killed:
                assert steps.count >= step
        for name in ("fresh", "knows-the-old"):
            place = plant.folder / f"reader-{name}-{step}"
            if name != "fresh":
                shutil.copytree(device, place)
            version = Reader(plant.root, "store://", place, StoreFetcher(plant.store)).version()
            assert version in (old, new), f"killed at step {step}: {name} reads {version}"
            seen.add(version)
        if done:
            assert seen == {old, new}
            return step
        repeat(plant)
        assert plant.reader(f"repeated-{step}").version() == new, f"killed at step {step}, then repeated"
    raise AssertionError("never got through")


def repeat(plant: Plant) -> None:
    """By the same command; when all was done but clearing up, there may be nothing left to do."""
    if plant.staged.names("metadata"):
        plant.publish()
    assert plant.staged.names("metadata") == []
    assert verify(plant.store, plant.root).troubles == ()


def test_release_killed_at_steps_leaves_the_old_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant = Plant(tmp_path)
    plant.release("1.0.0")
    plant.sign("1.1.0")
    assert publish_killed_at_steps(plant, monkeypatch, "1.0.0", "1.1.0") > 25


@pytest.mark.parametrize("role", ["timestamp", "targets"])
def test_rotation_killed_at_steps_leaves_no_reader_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    from cloud_inspect.release.keys import make_key

    plant = Plant(tmp_path)
    plant.release("1.0.0")
    place = plant.keys / "online" if role != "targets" else plant.keys
    key = make_key(place / f"{role}-2.pem")
    signers = plant.signers("root-1", "targets-1")
    own = plant.signers("targets-2") if role == "targets" else []
    exchange = Exchange(add=(key,), remove=(f"{role}-1",))
    signed = rotate(plant.change(), role, exchange, signers if role == "targets" else signers[:1], own)
    assert signed.missing == ()
    assert publish_killed_at_steps(plant, monkeypatch, "1.0.0", "1.0.0") > 8


def test_signing_killed_at_steps_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant = Plant(tmp_path)
    package = plant.package("1.0.0")
    for step in range(1, 200, EVERY):
        with killed_at(Path(plant.url), step, monkeypatch):
            try:
                plant.sign("1.0.0", package=package)
                break
            except Killed:
                pass
        signed = plant.sign("1.0.0", package=package)
        assert signed.missing == ()
        plant.change().discard()
    assert step > 15
    plant.publish()
    assert plant.reader().version() == "1.0.0"


def test_release_to_an_object_store_killed_between_writes_leaves_the_old_or_the_new_one(tmp_path: Path) -> None:
    """The dead writer's lock stays there, and has to be broken."""
    for step in range(1, 100, EVERY):
        plant = Plant(tmp_path / str(step), f"memory://{uuid.uuid4().hex}")
        plant.release("1.0.0")
        plant.sign("1.1.0")
        steps = Steps(tmp_path, step)
        store, staged = open_store(plant.url), open_store(f"{plant.url}/staged")
        for one in (store, staged):
            for name in ("write", "copy_in", "remove"):
                setattr(one, name, counted(steps, getattr(one, name)))
        try:
            publish(store, staged, plant.signers("online"), plant.now)
            break
        except Killed:
            assert plant.reader("between").version() in ("1.0.0", "1.1.0")
        for one in (plant.store, plant.staged):
            one.break_lock()
        repeat(plant)
        assert plant.reader("after").version() == "1.1.0"
    assert step > 8


def counted(steps: Steps, call: Callable[..., None]) -> Callable[..., None]:
    def take_then_call(*given: Any, **named: Any) -> None:
        steps.take()
        call(*given, **named)

    return take_then_call
