"""Parts to keep pictures of, a store driven by hand, and what must hold of its folder at any time."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_inspect.delivery.evidence import EvidenceStore
from edge_inspect.delivery.evidence_file import Mark, VerdictName, read_picture
from edge_inspect.delivery.evidence_index import FILE_NAME, on_disk
from edge_inspect.delivery.evidence_subject import Subject

WIDTH, HEIGHT = 320, 192
DAY_NS = 86_400 * 10**9
NOW_NS = 1_795_338_098_123_456_789


def subject(
    part: int, verdict: VerdictName = "NG", *, captured_utc_ns: int = NOW_NS, size: tuple[int, int] = (WIDTH, HEIGHT)
) -> Subject:
    width, height = size
    return Subject(
        camera="left",
        part=part,
        verdict=verdict,
        reason={"NG": "defect", "OK": "no-defect", "UNKNOWN": "overrun"}[verdict],
        defects=(Mark("scratch", 0.9, (100.0, 60.0, 130.0, 90.0), "major"),) if verdict == "NG" else (),
        part_px=(0, 0, width, height),
        crop_px=(width // 4, height // 4, width // 2, height // 2),
        captured_ns=part * 10**9,
        captured_utc_ns=captured_utc_ns,
        model="metal-plate 1.0.0",
        model_digest="sha256:" + "1" * 64,
        recipe="metal-plate 1",
        recipe_digest="sha256:" + "2" * 64,
    )


def noise(seed: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def plain(level: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    return np.full((height, width, 3), level, np.uint8)


def new_store(folder: Path, **options: Any) -> EvidenceStore:
    """With room for everything, unless told otherwise."""
    given = {"cap_bytes": 1 << 30, "most_per_min": 100_000, "run_id": "aaaaaaaa", **options}
    store = EvidenceStore(folder, **given)
    store.prepare(HEIGHT, WIDTH)
    return store


def keep_offered(store: EvidenceStore) -> None:
    """The thread's work without the thread: everything that was taken is written, then the index is closed."""
    stop = threading.Event()
    stop.set()
    store.run(stop)


def keep(store: EvidenceStore, part: int, verdict: VerdictName = "NG", **options: Any) -> bool:
    taken = store.offer(subject(part, verdict, **options), noise(part))
    keep_offered(store)
    return taken


@contextmanager
def running(store: EvidenceStore) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=store.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=60)


def rows(folder: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / FILE_NAME)) as db:
        return db.execute("SELECT file, bytes, sha256, verdict, part, what FROM picture ORDER BY row").fetchall()


def pictures(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.glob("*/*")}


def parts_kept(folder: Path) -> list[int]:
    return sorted({row[4] for row in rows(folder)})


def used_bytes(folder: Path) -> int:
    return sum(on_disk(path.stat().st_size) for path in folder.rglob("*") if path.is_file())


def assert_agrees(folder: Path) -> None:
    """Every row has its whole file, every file its row."""
    found = rows(folder)
    assert {row[0] for row in found} == pictures(folder)
    for file, size, *_ in found:
        stored, record = read_picture(folder, file)
        assert len(stored) == size and record.file == file
