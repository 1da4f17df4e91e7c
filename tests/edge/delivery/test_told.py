"""What the line was told is reported once, whatever of the journal, the outbox and the process a kill leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge_inspect.delivery import told
from edge_inspect.delivery.outbox import Outbox
from edge_inspect.delivery.told import NoJournal, ToldJournal
from edge_inspect.delivery.writer import OutboxWriter
from edge_inspect.errors import StorageFailing
from edge_wire.messages import DefectReport, ModelRef, Part, PartMode, RecipeRef, VerdictKind
from tests.edge.delivery.reports import DEVICE, DIGEST, report

BOOT, OTHER_BOOT = "8a1c6f0e-boot", "0b2d7e1f-boot"
CAMERA = "cam-1"


def outline(camera: str = CAMERA, device: str = DEVICE, digest: str = DIGEST) -> DefectReport:
    full = report(0, device=device)
    changed = {"camera": camera, "camera_digest": digest, "defects": (), "frame": None, "stages_ms": None}
    return full.model_copy(update=changed)


Life = Callable[..., ToldJournal]


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    """A new life of the daemon's journal; the one before was killed (nothing was said to it)."""
    lives: list[ToldJournal] = []

    def begin(boot: str = BOOT, device: str = DEVICE, introduced: bool = True) -> ToldJournal:
        if lives:
            lives[-1].close()
        lives.append(ToldJournal(tmp_path / told.FILE_NAME, device=device, boot=lambda: boot))
        if introduced:
            lives[-1].introduce(outline(device=device))
        return lives[-1]

    yield begin
    for journal in lives:
        journal.close()


def note(journal: ToldJournal, number: int, kind: str = "NG", sequence: int | None = None) -> None:
    """As a report of `reports.report(number)` is told by."""
    journal.note(CAMERA, number, kind, "defect" if kind == "NG" else "deadline", 1_000_000 * number, sequence)


def kept(box: Outbox) -> list[DefectReport]:
    return [DefectReport.from_bytes(box.payload(row.number)) for row in box.window(10_000)]


def outbox(tmp_path: Path, journal: ToldJournal) -> Outbox:
    box = Outbox(tmp_path / "outbox.sqlite3", device=DEVICE)
    box.told = journal
    return box


def test_what_was_told_and_not_put_is_put_by_the_next_life(life: Life, tmp_path: Path) -> None:
    note(life(), 1, sequence=2**32 - 1)
    journal = life()
    with closing(outbox(tmp_path, journal)) as box:
        assert box.put_told() == 1
        (found,) = kept(box)
        assert (found.verdict, found.reason, found.recovered) == (VerdictKind.NG, "defect", True)
        assert (found.part.number, found.part.sequence, found.verdict_ns) == (1, 2**32 - 1, 1_000_000)
        assert (found.camera, found.camera_digest, found.frame, found.thumbnail) == (CAMERA, DIGEST, None, None)
        assert box.put_told() == 0 and len(kept(box)) == 1
    assert not life().left


def test_what_is_put_is_not_put_again(life: Life, tmp_path: Path) -> None:
    journal = life()
    with closing(outbox(tmp_path, journal)) as box:
        for number in (1, 2, 3):
            note(journal, number)
        box.put_many([report(1), report(3)])
    journal = life()
    with closing(outbox(tmp_path, journal)) as box:
        assert box.put_told() == 1
        assert sorted(found.part.number for found in kept(box)) == [1, 2, 3]


def test_a_kill_between_the_commit_and_the_clearing_keeps_nothing_twice(
    life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = life()
    with closing(outbox(tmp_path, journal)) as box:
        note(journal, 1)
        note(journal, 2)
        with monkeypatch.context() as patched:
            patched.setattr(ToldJournal, "clear", lambda self, numbers: None)  # killed before it
            box.put(report(1))
    journal = life()
    with closing(outbox(tmp_path, journal)) as box:
        assert [left.report.part.number for left in journal.left] == [1, 2]
        assert box.put_told() == 1
        assert sorted(found.part.number for found in kept(box)) == [1, 2]


def test_a_kill_while_recovering_neither_loses_nor_repeats(
    life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = life()
    for number in range(1, 200):
        note(journal, number)
    journal = life()
    with closing(outbox(tmp_path, journal)) as box, monkeypatch.context() as patched:
        commits, put_many = [], Outbox.put_many

        def killed_in_the_second(self: Outbox, reports: list[DefectReport]) -> object:
            if commits:
                raise KeyboardInterrupt
            commits.append(put_many(self, reports))
            return commits[-1]

        patched.setattr(Outbox, "put_many", killed_in_the_second)
        with pytest.raises(KeyboardInterrupt):
            box.put_told()
    journal = life()
    with closing(outbox(tmp_path, journal)) as box:
        assert box.put_told() == 199 - 64
        assert sorted(found.part.number for found in kept(box)) == list(range(1, 200))


def test_a_commit_that_failed_and_came_back_counts(life: Life, tmp_path: Path) -> None:
    journal = life()
    with closing(outbox(tmp_path, journal)) as box:
        for number in (1, 2, 3):
            note(journal, number)
        write = box._write

        def landed_all_the_same(change: Callable[..., object]) -> object:
            write(change)  # type: ignore[arg-type]
            raise StorageFailing("the disk said no")

        box._write = landed_all_the_same  # type: ignore[assignment, method-assign]
        with pytest.raises(StorageFailing):
            box.put_many([report(1), report(2), report(3)])
        box._write = write  # type: ignore[method-assign]
        box.put(report(1))  # the writer goes on with the oldest alone, and is killed
    journal = life()
    with closing(outbox(tmp_path, journal)) as box:
        assert box.put_told() == 0
        assert [found.part.number for found in kept(box)] == [1, 2, 3]


def test_what_is_ok_is_not_noted(life: Life) -> None:
    life().note(CAMERA, 1, "OK", "no-defect", 1_000_000, 5)
    assert not life().left


def test_entries_of_another_boot_are_not_used(life: Life) -> None:
    note(life(), 1)
    assert not life(OTHER_BOOT).left
    assert not life(BOOT).left


def test_entries_of_another_device_are_not_used(life: Life) -> None:
    note(life(device="edge-2"), 1)
    assert not life().left


@pytest.mark.parametrize("at", [0, 30, told._OUTLINES_AT + 20, told._SLOTS_AT, told._SLOTS_AT + 60])
def test_a_torn_entry_is_ignored_and_the_journal_goes_on(life: Life, at: int) -> None:
    journal = life()
    note(journal, 1)
    with journal.path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xa5")
    journal = life()
    assert not journal.left
    note(journal, 2)
    assert [left.report.part.number for left in life().left] == [2]


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" * 70_000, b"\xff" * told.SIZE_BYTES, b"#" * 100])
def test_a_file_that_is_no_journal_begins_anew(tmp_path: Path, life: Life, content: bytes) -> None:
    (tmp_path / told.FILE_NAME).write_bytes(content)
    journal = life()
    assert not journal.left
    note(journal, 1)
    assert len(life().left) == 1


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: path.symlink_to("/etc/passwd")])
def test_no_journal_is_one_line(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / told.FILE_NAME)
    with pytest.raises(NoJournal, match=told.FILE_NAME):
        ToldJournal(tmp_path / told.FILE_NAME, device=DEVICE, boot=lambda: BOOT)


def test_a_second_daemon_has_no_journal(life: Life, tmp_path: Path) -> None:
    life()
    with pytest.raises(NoJournal):
        ToldJournal(tmp_path / told.FILE_NAME, device=DEVICE, boot=lambda: BOOT)


def test_the_oldest_entry_goes_first_and_is_counted(life: Life) -> None:
    journal = life()
    for number in range(1, told.SLOTS + 11):
        note(journal, number)
    assert journal.overwritten == 10
    assert [left.report.part.number for left in life().left] == list(range(11, told.SLOTS + 11))


def test_numbers_never_come_twice_while_the_clock_stands_still(tmp_path: Path) -> None:
    with closing(
        ToldJournal(tmp_path / told.FILE_NAME, device=DEVICE, boot=lambda: BOOT, monotonic_ns=lambda: 5)
    ) as journal:
        journal.introduce(outline())
        for number in range(3):
            note(journal, number)
        assert journal.numbers([report(number) for number in range(3)]) == [5, 6, 7]
    with closing(
        ToldJournal(tmp_path / told.FILE_NAME, device=DEVICE, boot=lambda: BOOT, monotonic_ns=lambda: 5)
    ) as journal:
        journal.introduce(outline())
        note(journal, 3)
        assert journal.numbers([report(3)]) == [8]


def test_what_a_camera_is_known_by_outlives_many_lives(life: Life) -> None:
    for number in range(told.OUTLINES + 5):
        journal = life()
        if number == told.OUTLINES:
            note(journal, 1)
    assert len(life().left) == 1


def test_the_largest_outline_has_room(tmp_path: Path) -> None:
    label, name, digest = "L" * 64, "n" * 40, "sha256:" + "f" * 64
    largest = DefectReport(
        device=name, site=name, line=name, camera=name, epoch=report(1).epoch, seq=1, camera_digest=digest,
        part=Part(number=0, mode=PartMode.TRIGGER), verdict=VerdictKind.UNKNOWN, reason="r" * 40,
        model=ModelRef(name=label, version=label, digest=digest, variant_digest=digest),
        recipe=RecipeRef(name=label, version=label, digest=digest), verdict_ns=2**63 - 1,
        verdict_utc=report(1).verdict_utc,
    )  # fmt: skip
    with closing(ToldJournal(tmp_path / told.FILE_NAME, device=name, boot=lambda: BOOT)) as journal:
        journal.introduce(largest)
        journal.note(name, 2**53 - 1, "UNKNOWN", "r" * 40, 2**63 - 1, None)
    with closing(ToldJournal(tmp_path / told.FILE_NAME, device=name, boot=lambda: BOOT)) as journal:
        assert [left.report.part.number for left in journal.left] == [2**53 - 1]


def test_any_thread_may_note(life: Life) -> None:
    journal = life()
    threads = [
        threading.Thread(target=lambda first=first: [note(journal, first + number) for number in range(200)])
        for first in range(0, 800, 200)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(left.report.part.number for left in life().left) == list(range(800))


def test_the_writer_puts_first_what_an_earlier_life_told(life: Life, tmp_path: Path) -> None:
    note(life(), 1)
    journal, woken = life(), threading.Event()
    with closing(outbox(tmp_path, journal)) as box:
        writer = OutboxWriter(box, wake=woken.set)
        writer.hand_over(report(2))
        stop = threading.Event()
        thread = threading.Thread(target=writer.run, args=(stop,), name="outbox")
        thread.start()
        assert woken.wait(30)
        stop.set()
        thread.join(timeout=30)
        assert writer.recovered == 1
        assert [(found.part.number, found.recovered) for found in kept(box)] == [(1, True), (2, False)]


def test_what_memory_could_not_hold_is_put_by_the_next_life(life: Life, tmp_path: Path) -> None:
    journal = life()
    for number in (1, 2, 3):
        note(journal, number)
    with closing(outbox(tmp_path, journal)) as box:
        writer = OutboxWriter(box, wake=lambda: None, bound=2)
        assert [writer.hand_over(report(number)) for number in (1, 2, 3)] == [True, True, False]
        assert writer._put_some()
    journal = life()
    with closing(outbox(tmp_path, journal)) as box:
        assert box.put_told() == 1
        assert [found.part.number for found in kept(box)] == [1, 2, 3]
