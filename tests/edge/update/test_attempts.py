"""A model that was kept and cannot be started any more is given up after three starts; for nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge_inspect import durable
from edge_inspect.errors import BadModel, CameraLost, ProviderMissing, StorageFailing
from edge_inspect.update import attempts as module
from edge_inspect.update.attempts import FILE_NAME, GOOD_S, Attempts
from edge_inspect.update.state_file import STATE_NAME
from tests.edge.update.box import Box, Kill

WRONG = BadModel("known-answer", "plate-1.png: found no scratch")


def kept(box: Box, name: str = "b", sequence: int = 1) -> None:
    box.release(name, sequence)
    box.run()
    assert box.live is not None and box.live.judging == box.digests[name]
    box.end()
    box.source.rollout = None


def start(box: Box, *errors: BaseException | None) -> list[str]:
    """One start after the other; each builds the engine and ends by that. Which model judged at each of them."""
    judged = []
    for err in errors:
        updater = box.start()
        assert box.store is not None and box.live is not None
        judged.append(next(name for name, digest in box.digests.items() if digest == box.live.judging))
        try:
            with box.store.attempts.building(box.live.judging):
                if err is not None:
                    raise err
            updater.step()
        except (BadModel, MemoryError, Kill, ProviderMissing, RuntimeError):
            pass
        box.end()
    return judged


@pytest.mark.parametrize(
    "err",
    [WRONG, BadModel("runtime-refuses", "model.onnx"), MemoryError(), RuntimeError("the runtime's own"), Kill()],
    ids=["known answer", "runtime", "memory", "foreign", "killed while it loads"],
)
def test_kept_model_that_cannot_be_started_three_times_is_given_up(err: BaseException, box: Box) -> None:
    kept(box)
    assert start(box, err, err, err, None, None) == ["b", "b", "b", "factory", "factory"]
    updater = box.start()
    assert box.store is not None
    state = box.store.state
    refusal = state.refusal_of(box.digests["b"])
    assert refusal is not None and refusal.code == "unconfirmed-starts"
    assert state.floors["tiny/stable"].settled
    last = box.store.history.entries[-1]
    assert (last.event, last.role, last.code) == ("activated", "factory", "unconfirmed-starts")
    assert last.why.startswith("tiny 1.1.0 could not be started 3 times")
    assert ("model-given-up", f"tiny 1.0.0 judges; {last.why}") in updater.alarms()
    if err is WRONG:
        assert "known-answer" in last.why
    box.release("b", 1)
    box.run()
    assert box.live is not None and box.live.judging == box.digests["factory"]  # not again on its own


def test_first_the_previous_one_then_the_factorys(box: Box) -> None:
    kept(box)
    kept(box, "c", 2)
    assert start(box, *[WRONG] * 9) == ["c"] * 3 + ["b"] * 3 + ["factory"] * 3


def ends_well(box: Box) -> None:
    box.start()
    assert box.store is not None
    box.store.attempts.over()
    assert not (box.state_dir / FILE_NAME).exists()
    assert start(box, WRONG, WRONG) == ["b", "b"]


@pytest.mark.parametrize(
    "between",
    [
        lambda box: start(box, None),
        ends_well,
    ],
    ids=["a start at which it was made ready, and a kill", "a good end"],
)
def test_starts_that_are_nothing_to_be_counted(between: Callable[[Box], object], box: Box) -> None:
    kept(box)
    assert start(box, *[None] * 9) == ["b"] * 9  # killed as soon as it is ready
    start(box, WRONG, WRONG)
    between(box)
    box.start()
    assert box.store is not None and box.live is not None and box.live.judging == box.digests["b"]


def test_what_the_runtime_lacks_is_not_the_models_fault(box: Box) -> None:
    kept(box)
    assert set(start(box, *[ProviderMissing("no CUDA device")] * 5)) == {"b"}


def test_kept_model_that_a_person_takes_again_begins_anew(box: Box) -> None:
    kept(box)
    start(box, *[WRONG] * 4)
    box.release("b", 2, action="rollback")
    box.run()
    box.source.rollout = None
    assert start(box, WRONG, WRONG, None) == ["b", "b", "b"]


def test_disk_that_takes_no_count_costs_nothing_else(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes, mode: int = 0o644) -> None:
        raise StorageFailing(f"{path}: full")

    kept(box)
    monkeypatch.setattr(module, "write_durably", full)
    assert start(box, None, WRONG) == ["b", "b"]


def test_model_is_given_up_though_the_disk_takes_no_state(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(box)
    start(box, *[WRONG] * 3)

    def full(path: Path, content: bytes, mode: int = 0o644) -> None:
        raise StorageFailing(f"{path}: full")

    monkeypatch.setattr("edge_inspect.update.store.write_durably", full)
    assert start(box, None) == ["factory"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"digest": "b", "starts": -1}', b"\0" * 9999])
def test_count_that_cannot_be_read_gives_nothing_up(content: bytes, box: Box) -> None:
    kept(box)
    (box.state_dir / FILE_NAME).write_bytes(content)
    assert start(box, WRONG, WRONG, None) == ["b"] * 3


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


D = "sha256:" + "d" * 64


def counted(folder: Path, clock: Clock | None = None) -> Attempts:
    return Attempts(folder, lambda: D, clock_s=clock or Clock())


def test_what_the_model_raises_later_counts_unless_it_has_judged_for_long(tmp_path: Path) -> None:
    clock = Clock()
    for starts in (1, 2):
        attempts = counted(tmp_path, clock)
        with attempts.building(D):
            pass
        attempts.ended_by([WRONG])
        said = counted(tmp_path).of(D)
        assert said is not None and (said.starts, said.why) == (starts, str(WRONG))
    attempts = counted(tmp_path, clock)
    attempts.frames = lambda: 1
    attempts.look()
    clock.now_s = GOOD_S
    attempts.ended_by([WRONG])
    said = counted(tmp_path).of(D)
    assert said is not None and said.starts == 1  # the first one again


def test_model_that_has_not_judged_has_not_been_good_for_long(tmp_path: Path) -> None:
    clock = Clock()
    counted(tmp_path).ended_by([WRONG])
    attempts = counted(tmp_path, clock)
    attempts.look()
    clock.now_s = 10 * GOOD_S
    attempts.look()
    assert attempts.of(D) is not None


def test_what_others_raise_is_not_held_against_the_model(tmp_path: Path) -> None:
    attempts = counted(tmp_path)
    attempts.ended_by([CameraLost("gone"), StorageFailing("full"), RuntimeError("a bug elsewhere")])
    attempts.ended_by([BadModel("no-such-variant", "no int8 in it")])
    assert attempts.of(D) is None


def test_model_that_can_be_started_costs_two_writes_and_the_factorys_none(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write, remove = durable.write_durably, durable.remove_durably

    def writing(path: Path, content: bytes) -> None:
        written.append("count")
        write(path, content)

    def removing(path: Path) -> None:
        written.append("over")
        remove(path)

    monkeypatch.setattr(module, "write_durably", writing)
    monkeypatch.setattr(module, "remove_durably", removing)
    start(box, None)
    assert not written
    kept(box)
    start(box, None)
    assert written == ["count", "over"]
    before = (box.state_dir / STATE_NAME).read_bytes()
    start(box, None)
    assert (box.state_dir / STATE_NAME).read_bytes() == before
