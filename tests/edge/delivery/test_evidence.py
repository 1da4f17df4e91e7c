"""The ring of pictures: what is kept, what goes, and that whoever inspects never waits for it."""

from __future__ import annotations

import hashlib
import threading
import time
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_inspect.delivery import evidence
from edge_inspect.delivery.evidence import EvidenceStore
from edge_inspect.delivery.evidence_file import Damaged, read_picture, split
from edge_inspect.delivery.evidence_subject import Subject
from edge_inspect.delivery.picture_pool import Pixels
from tests.edge.delivery.evidence_parts import (
    DAY_NS,
    HEIGHT,
    NOW_NS,
    WIDTH,
    assert_agrees,
    keep,
    keep_offered,
    new_store,
    noise,
    parts_kept,
    pictures,
    plain,
    rows,
    running,
    subject,
    used_bytes,
)

CAP = 4 << 20


class Clocks:
    """Wall and monotonic clock, set by hand."""

    def __init__(self) -> None:
        self.utc_ns = NOW_NS
        self.monotonic_s = 1000.0

    def store(self, folder: Path, **options: object) -> EvidenceStore:
        clocks = {"utc_ns": lambda: self.utc_ns, "monotonic_s": lambda: self.monotonic_s}
        return new_store(folder, **clocks, **options)


def test_frame_and_crop_are_kept_and_show_what_was_offered(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    picture = plain(90)
    cv2.circle(picture, (115, 75), 30, (0, 0, 255), -1)
    assert store.offer(subject(7), picture)
    keep_offered(store)
    assert_agrees(tmp_path)
    kept = {row[5]: cv2.imread(str(tmp_path / row[0])) for row in rows(tmp_path)}
    left, top, right, bottom = subject(7).crop_px
    assert set(kept) == {"frame", "crop"}
    assert np.abs(kept["frame"].astype(int) - picture).mean() < 8
    assert np.abs(kept["crop"].astype(int) - picture[top:bottom, left:right]).mean() < 8


def test_a_picture_carries_all_that_is_known_of_it(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    keep(store, 7)
    file, size, digest, *_ = next(row for row in rows(tmp_path) if row[5] == "frame")
    stored, record = read_picture(tmp_path, file)
    assert (len(stored), hashlib.sha256(stored).hexdigest()) == (size, digest)
    told = subject(7)
    for name in ("camera", "part", "verdict", "reason", "defects", "captured_ns", "captured_utc_ns", "part_px"):
        assert getattr(record, name) == getattr(told, name), name
    assert (record.model_digest, record.recipe_digest) == (told.model_digest, told.recipe_digest)
    assert record.frame_px == (WIDTH, HEIGHT)


def test_only_the_crop_is_copied_and_kept_without_full_frames(tmp_path: Path) -> None:
    store = new_store(tmp_path, full_frames=False)
    keep(store, 1)
    assert [row[5] for row in rows(tmp_path)] == ["crop"]
    left, top, right, bottom = subject(1).crop_px
    kept = cv2.imread(str(tmp_path / rows(tmp_path)[0][0]))
    assert kept.shape == (bottom - top, right - left, 3)


def test_what_happens_to_the_slot_afterwards_does_not_show(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    slot = plain(200)
    store.offer(subject(1), slot)
    slot[:] = 0
    keep_offered(store)
    assert cv2.imread(str(tmp_path / rows(tmp_path)[0][0])).mean() > 190


def test_offer_skips_and_counts_when_every_buffer_is_busy(tmp_path: Path) -> None:
    store = new_store(tmp_path, buffers=3)
    taken = [store.offer(subject(part), noise(part)) for part in range(5)]
    assert taken == [True, True, True, False, False]
    assert store.skipped == 2
    keep_offered(store)
    assert parts_kept(tmp_path) == [0, 1, 2]
    assert store.offer(subject(9), noise(9)), "the buffers are free again"


def test_nobody_waits_for_a_write_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, goes_on = threading.Event(), threading.Event()
    write = evidence.write_picture

    def stalled(folder: Path, file: str, stored: bytes) -> None:
        hangs.set()
        assert goes_on.wait(60)
        write(folder, file, stored)

    monkeypatch.setattr(evidence, "write_picture", stalled)
    monkeypatch.setattr(evidence, "STUCK_S", 0.05)
    store = new_store(tmp_path)
    with running(store):
        store.offer(subject(0), noise(0))
        assert hangs.wait(60)
        offered = [store.offer(subject(part), noise(part)) for part in range(1, 50)]
        assert 0 < sum(offered) <= evidence.BUFFERS
        until = time.monotonic() + 60
        while not store.alarms() and time.monotonic() < until:
            threading.Event().wait(0.02)
        assert store.alarms()[0].code == "evidence-failing"
        goes_on.set()
    assert not store.alarms()
    assert len(parts_kept(tmp_path)) == 1 + sum(offered)


def test_a_line_where_everything_is_bad_is_limited(tmp_path: Path) -> None:
    clocks = Clocks()
    store = clocks.store(tmp_path, most_per_min=60)
    for part in range(100):
        keep(store, part)
    assert len(parts_kept(tmp_path)) == 15  # a quarter of a minute's worth at once
    clocks.monotonic_s += 10
    for part in range(100, 150):
        keep(store, part)
    assert len(parts_kept(tmp_path)) == 25


def test_samples_follow_from_the_part_alone(tmp_path: Path) -> None:
    first, again, other = (new_store(tmp_path, ok_share=0.01, run_id=run) for run in ("a", "a", "b"))
    chosen = [part for part in range(100_000) if first.samples("left", part)]
    assert chosen == [part for part in range(100_000) if again.samples("left", part)]
    assert 800 < len(chosen) < 1200
    assert chosen != [part for part in range(100_000) if other.samples("left", part)]
    for cavities in (2, 3, 4, 8, 10, 16):  # a mould with so many cavities: none of them is left out or preferred
        counts = np.bincount(np.array(chosen) % cavities, minlength=cavities)
        assert counts.min() > 0.6 * counts.mean()


def test_no_part_or_every_part_can_be_sampled(tmp_path: Path) -> None:
    none, every = new_store(tmp_path, ok_share=0.0), new_store(tmp_path, ok_share=1.0)
    assert not any(none.samples("left", part) for part in range(1000))
    assert all(every.samples("left", part) for part in range(1000))


def test_samples_go_before_parts_that_were_not_ok(tmp_path: Path) -> None:
    store = new_store(tmp_path, cap_bytes=CAP)
    for part in range(10):
        keep(store, part, "NG")
    for part in range(10, 20):
        keep(store, part, "OK")
    while store.pruned == 0:
        keep(store, 20 + len(parts_kept(tmp_path)), "UNKNOWN")
    assert set(range(10)) <= set(parts_kept(tmp_path))
    assert (10, "frame") not in {(row[4], row[5]) for row in rows(tmp_path)}, "the oldest sample went first"


def test_a_sample_never_displaces_a_part_that_was_not_ok(tmp_path: Path) -> None:
    store = new_store(tmp_path, cap_bytes=CAP)
    part = 0
    while store.pruned == 0:
        keep(store, part := part + 1, "NG")
    before = pictures(tmp_path)
    for number in range(1000, 1005):
        keep(store, number, "OK")
    kept = pictures(tmp_path)
    assert before - {file for file in before if "_OK_" in file} <= kept
    assert store.skipped > 0


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["OK", "NG", "UNKNOWN"]),
            st.integers(20, 60),  # width and height, in tens of px
            st.integers(20, 48),
            st.integers(-50, 50),  # days between wall clock and the truth
            st.integers(0, 100),  # seconds until the next one
        ),
        min_size=10,
        max_size=40,
    )
)
def test_the_bound_holds_whatever_comes(tmp_path_factory: pytest.TempPathFactory, offered: list[tuple]) -> None:
    folder, clocks = tmp_path_factory.mktemp("ring"), Clocks()
    store = clocks.store(folder, cap_bytes=CAP, keep_days=10)
    store.prepare(480, 600)
    for part, (verdict, tens_wide, tens_high, days, seconds) in enumerate(offered):
        width, height = tens_wide * 10, tens_high * 10
        clocks.utc_ns = NOW_NS + days * DAY_NS
        clocks.monotonic_s += seconds
        told = subject(part, verdict, captured_utc_ns=clocks.utc_ns, size=(width, height))
        store.offer(told, noise(part, width, height))
        keep_offered(store)
        assert used_bytes(folder) <= CAP
        assert store.vitals().pictures == len(pictures(folder))
    assert_agrees(folder)
    assert store.failed == 0 and not store.alarms()


def test_a_smaller_cap_is_kept_from_the_next_start_on(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for part in range(80):
        keep(store, part)
    assert used_bytes(tmp_path) > CAP
    store = new_store(tmp_path, cap_bytes=CAP)
    keep(store, 100)
    assert used_bytes(tmp_path) <= CAP
    assert_agrees(tmp_path)


def test_old_pictures_go_with_time(tmp_path: Path) -> None:
    clocks = Clocks()
    store = clocks.store(tmp_path, keep_days=30)
    for part in range(10):
        keep(store, part)
    clocks.utc_ns += 31 * DAY_NS
    for minute in range(30):
        clocks.monotonic_s += 60
        keep(store, 100 + minute, captured_utc_ns=clocks.utc_ns)
    assert not set(range(10)) & set(parts_kept(tmp_path))
    assert set(range(100, 130)) <= set(parts_kept(tmp_path))


def test_a_clock_that_jumps_ten_years_takes_next_to_nothing(tmp_path: Path) -> None:
    clocks = Clocks()
    store = clocks.store(tmp_path, keep_days=30, full_frames=False)
    for part in range(200):
        keep(store, part)
    for years in (10, -10):
        clocks.utc_ns = NOW_NS + years * 365 * DAY_NS
        clocks.monotonic_s += 60
        keep(store, 1000 + years)
    clocks.utc_ns = NOW_NS
    clocks.monotonic_s += 60
    keep(store, 2000, captured_utc_ns=NOW_NS)
    assert len(set(parts_kept(tmp_path)) & set(range(200))) >= 196
    assert_agrees(tmp_path)


def test_a_clock_that_says_anything_is_no_reason_to_fail(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for part, utc_ns in enumerate((-(10**18), 0, 1, 2**62, 2**63 - 1)):
        keep(store, part, captured_utc_ns=utc_ns)
    assert store.failed == 0
    assert parts_kept(tmp_path) == [0, 1, 2, 3, 4]
    assert_agrees(tmp_path)


def offer_and_keep(store: EvidenceStore, told: Subject, frame: Pixels, times: int) -> None:
    for _ in range(times):
        store.offer(told, frame)
        keep_offered(store)


def test_no_frame_sized_memory_is_taken_per_part(tmp_path: Path) -> None:
    """Neither by the copy nor by encoding a crop: JPEGs come and go, pictures do not."""
    store = new_store(tmp_path, buffers=2)
    frame, told = plain(128), subject(1)
    offer_and_keep(store, told, frame, 5)
    tracemalloc.start()
    try:
        standing, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        offer_and_keep(store, told, frame, 50)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - standing < frame.nbytes // 2, f"{peak - standing} bytes at once, a frame has {frame.nbytes}"
    assert now - standing < frame.nbytes // 4


def test_a_part_that_is_not_sampled_costs_no_memory(tmp_path: Path) -> None:
    store = new_store(tmp_path, ok_share=0.0)
    store.samples("left", 0)
    tracemalloc.start()
    try:
        standing, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for part in range(10_000):
            store.samples("left", part)
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - standing < 10_000, f"{now - standing} stay"  # a byte a part would be more


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), length=st.floats(0, 1, exclude_max=True))
def test_a_changed_picture_is_noticed(one_picture: bytes, place: float, value: int, length: float) -> None:
    jpeg, record = split(one_picture)
    changed = bytearray(one_picture)
    changed[int(place * len(changed))] = value
    for found in (bytes(changed), one_picture[: int(length * len(one_picture))]):
        try:
            read, told = split(found)
        except Damaged:
            continue
        # Only in the record may a byte change and leave something that can be read; then the picture is still right.
        assert read == jpeg and told.jpeg_sha256 == record.jpeg_sha256


@pytest.fixture(scope="module")
def one_picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("one")
    store = new_store(folder)
    store.offer(subject(1), plain(100))
    keep_offered(store)
    return (folder / rows(folder)[0][0]).read_bytes()
