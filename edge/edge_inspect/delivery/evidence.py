"""Pictures of the parts that were not OK, and of a few that were: kept on disk in a ring, outside the verdict path.

1. `offer` never waits and never fails: it copies the frame once into one of a few buffers that stand ready. When all
   are busy, the disk is failing or too many come, the picture is skipped and counted.
2. Encoding and writing happen in one thread of their own. Nothing that disk, index or clock do reaches the inspection.
   (It is not made nice: a thread that is seldom run would keep the interpreter's lock from whoever inspects.)
3. Pictures and index together stay within `cap_bytes`, and the disk's last `min_free_bytes` are never taken: what is
   kept makes room, oldest first, samples of OK parts before all others. A sample never displaces another kind.
4. Which OK parts are kept follows from their number alone (`evidence_samples`).
5. A power cut may take the newest pictures and nothing else; what is left is put right at the next start.
6. Age goes by the wall clock, order by when it was stored. A clock that jumps ahead costs at most 1 % of the pictures a
   minute.

    store = EvidenceStore(state_dir / "evidence", cap_bytes=1 << 30)
    store.prepare(1080, 1920)                       # a camera's size is known
    store.offer(subject, pixels)                    # inspect thread, the slot still leased
    store.run(stop)                                 # the evidence thread
"""

from __future__ import annotations

import queue
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from edge_inspect.backoff import Backoff
from edge_inspect.delivery.evidence_file import Record, free_bytes, remove_picture, write_picture
from edge_inspect.delivery.evidence_index import (
    EvidenceIndex,
    IndexBroken,
    Kept,
    Mended,
    delete_index,
    mend,
    on_disk,
    shed_by_name,
)
from edge_inspect.delivery.evidence_samples import Samples
from edge_inspect.delivery.evidence_subject import Encoder, Subject
from edge_inspect.delivery.pace import Pace
from edge_inspect.delivery.picture_pool import Copied, PicturePool, Pixels
from edge_inspect.errors import StorageFailing
from edge_wire.messages import Degraded, EvidenceVitals

log = structlog.get_logger(__name__)

FOLDER = "evidence"
"""Below the state directory."""
BUFFERS = 3
LOOK_EVERY_S = 0.5
TIDY_EVERY_S = 10.0
STUCK_S = 10.0
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
BESIDE_PER_MIN, BESIDE_AT_ONCE_S = 10, 60.0
"""Pictures of parts on which two models disagree: a model that is wrong about everything must not fill the ring."""
AT_ONCE_S = 15.0
"""So many seconds' worth of `most_per_min` may come at once."""
DAY_NS = 86_400 * 10**9
AGE_SHARE, AGE_EVERY_S = 0.01, 60.0
"""How much of all pictures goes at most in one go because of its age, and how often."""
INDEX_GROWS_BYTES = 128 * 1024
"""Most by which one more row makes the index's files longer."""
INDEX_ROOM_BYTES = 256 * 1024
"""Left free at least, so that rows can be written and removed."""


class Job(NamedTuple):
    subject: Subject
    copied: Copied


class EvidenceStore:
    """One thread's `run(stop)`; `samples` and `offer` belong to the inspect thread, the rest may be called from any."""

    def __init__(
        self,
        folder: Path,
        *,
        cap_bytes: int,
        keep_days: float = 30,
        ok_share: float = 0.01,
        full_frames: bool = True,
        jpeg_quality: int = 90,
        min_free_bytes: int = 0,
        most_per_min: int = 300,
        buffers: int = BUFFERS,
        run_id: str | None = None,
        utc_ns: Callable[[], int] = time.time_ns,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stored = 0
        """Pictures written."""
        self.failed = 0
        """Parts whose picture was taken and could not be written."""
        self.pruned = 0
        """Pictures removed to make room, or for their age."""
        self.beat_ns: int | None = time.monotonic_ns()
        """When the thread last moved; None once it has ended. A disk that hangs is an alarm, no reason to end."""
        self.run_id = run_id or secrets.token_hex(4)
        self.samples = Samples(self.run_id, ok_share).takes
        """Whether this part of a camera would be kept if it is OK; the inspect thread's."""
        self._folder = folder
        self._cap_bytes = cap_bytes
        self._keep_ns = int(keep_days * DAY_NS)
        self._full_frames = full_frames
        self._floor_bytes = max(min_free_bytes, INDEX_ROOM_BYTES)
        self._utc_ns = utc_ns
        self._monotonic_s = monotonic_s
        self._pace = Pace(most_per_min / 60, monotonic_s(), holds_s=AT_ONCE_S)
        self._pace_beside = Pace(min(BESIDE_PER_MIN, most_per_min) / 60, monotonic_s(), holds_s=BESIDE_AT_ONCE_S)
        self._pool = PicturePool(buffers)
        self._encoder = Encoder(self._pool, self.run_id, full_frames=full_frames, quality=jpeg_quality)
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._not_taken = self._not_taken_beside = self._let_go = 0  # one counter for each of the three threads
        self._index: EvidenceIndex | None = None
        self._distrusted = False
        self._size_bytes = self._pictures = 0
        self._failure = ""
        self._backoff = Backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        self._blocked_until_s = 0.0
        self._next_tidy_s = self._next_age_s = monotonic_s()

    @property
    def skipped(self) -> int:
        """Parts and samples whose picture was let go: all buffers busy, too many, the disk failing, no room for OK."""
        return self._not_taken + self._not_taken_beside + self._let_go

    def prepare(self, height_px: int, width_px: int) -> None:
        """Frames of this size will come: make every buffer large enough. Called before the first of them."""
        self._pool.prepare(height_px, width_px)

    def offer(self, subject: Subject, pixels: Pixels) -> bool:
        """Copy what is to be kept of the frame (h, w, 3) and return; False if it had to be skipped. Never waits."""
        at_px = (0, 0, pixels.shape[1], pixels.shape[0]) if self._full_frames else subject.crop_px
        copied = None
        if self._monotonic_s() >= self._blocked_until_s and self._within_rate():
            copied = self._pool.copy(pixels, at_px)
        if copied is None:
            self._not_taken += 1
            return False
        self._jobs.put(Job(subject, copied))
        return True

    def offer_beside(self, subject: Subject, pixels: Pixels) -> bool:
        """The same for the thread of a model that judges beside: at most one picture of two that disagree a while."""
        copied = None
        now_s = self._monotonic_s()
        if now_s >= self._blocked_until_s and self._pace_beside.may(now_s):
            self._pace_beside.took()
            at_px = (0, 0, pixels.shape[1], pixels.shape[0]) if self._full_frames else subject.crop_px
            copied = self._pool.copy(pixels, at_px)
        if copied is None:
            self._not_taken_beside += 1
            return False
        self._jobs.put(Job(subject, copied))
        return True

    def run(self, stop: threading.Event) -> None:
        """Keep pictures until `stop`, then those that were already taken."""
        try:
            while not stop.is_set():
                self.beat_ns = time.monotonic_ns()
                try:
                    job = self._jobs.get(timeout=LOOK_EVERY_S)
                except queue.Empty:
                    job = None
                self._guarded(job, stop)
            while not self._jobs.empty():
                self._guarded(self._jobs.get(), stop)
        finally:
            self.beat_ns = None
            self._close_index()

    def alarms(self) -> list[Degraded]:
        """What is wrong with keeping pictures, for the device's state."""
        beat_ns = self.beat_ns
        if beat_ns is not None and time.monotonic_ns() - beat_ns > STUCK_S * 1e9:
            return [Degraded(code="evidence-failing", detail="a write hangs")]
        if self._failure:
            return [Degraded(code="evidence-failing", detail=self._failure[:200])]
        return []

    def vitals(self) -> EvidenceVitals:
        """Counts; never touches the disk."""
        return EvidenceVitals(
            stored=self.stored,
            skipped=self.skipped,
            failed=self.failed,
            pruned=self.pruned,
            pictures=self._pictures,
            size_bytes=self._size_bytes,
            failing=bool(self.alarms()),
        )

    def frame_jpeg_bytes(self, camera: str) -> float | None:
        """Mean size of this camera's whole frames as JPEG, of those that were kept lately; None before the first."""
        sizes = self._encoder.frame_sizes.get(camera)
        return None if sizes is None else sizes.mean_bytes

    def _within_rate(self) -> bool:
        if not self._pace.may(self._monotonic_s()):
            return False
        self._pace.took()
        return True

    def _guarded(self, job: Job | None, stop: threading.Event) -> None:
        """Keep one picture if there is one, and tidy; the world's failures end here, in one alarm."""
        blocked = self._monotonic_s() < self._blocked_until_s
        pictures = self._encoder.pictures(job.subject, job.copied) if job and not blocked else []
        if job:
            self._pool.give_back(job.copied)
            self.failed += blocked
        if blocked:
            return
        try:
            if self._index is not None and not self._index.is_there:
                self._close_index()
            index = self._index or self._open(stop)
            for record, stored in pictures:
                self._keep(index, record, stored)
            self._tidy_if_due(index)
        except (StorageFailing, IndexBroken) as err:
            self.failed += job is not None
            self._failed(err)
            return
        if self._failure and pictures:
            self._works_again()

    def _open(self, stop: threading.Event) -> EvidenceIndex:
        """The index, agreeing with the files; made anew if it was broken."""
        if self._distrusted:
            delete_index(self._folder)
            self._distrusted = False
        if self._folder.is_dir():
            self.pruned += shed_by_name(self._folder, INDEX_ROOM_BYTES - free_bytes(self._folder))
        try:
            index = EvidenceIndex(self._folder)
        except IndexBroken as err:
            log.warning("evidence.index_broken", why=str(err), then="made anew from the pictures")
            delete_index(self._folder)
            index = EvidenceIndex(self._folder)

        def moved() -> bool:
            self.beat_ns = time.monotonic_ns()
            return not stop.is_set()

        try:
            mended = mend(self._folder, index, moved)
        except BaseException:
            index.close()
            raise
        if mended != Mended(0, 0, 0):
            log.info("evidence.mended", **mended._asdict())
        self._index = index
        self._note_size(index)
        return index

    def _keep(self, index: EvidenceIndex, record: Record, stored: bytes) -> None:
        """Make room, write, enter. A sample for which there is no room is let go."""
        if not self._make_room(index, on_disk(len(stored)), only_ok=record.verdict == "OK"):
            self._let_go += 1
            return
        write_picture(self._folder, record.file, stored)
        try:
            index.add(record.file, stored, record)
        except (StorageFailing, IndexBroken):
            remove_picture(self._folder, record.file)
            raise
        self.stored += 1
        self._note_size(index)

    def _make_room(self, index: EvidenceIndex, need_bytes: int, *, only_ok: bool) -> bool:
        """For so many bytes more under the cap and above the floor; False if only NG and UNKNOWN parts are in the way.

        Raises StorageFailing when the disk has too little left whatever is removed.
        """
        if need_bytes + INDEX_GROWS_BYTES > self._cap_bytes:
            return False
        over = index.size_bytes + need_bytes + INDEX_GROWS_BYTES - self._cap_bytes
        short = self._floor_bytes + need_bytes - free_bytes(self._folder)
        going = index.first_to_go(max(over, short), only_ok=only_ok)
        if only_ok and sum(on_disk(each.bytes) for each in going) < max(over, short):
            return False
        self._remove(index, going)
        if short > 0 and (free := free_bytes(self._folder)) < self._floor_bytes + need_bytes:
            left, floor = (f"{size / 1e6:.1f} MB" for size in (free, self._floor_bytes))
            raise StorageFailing(f"{self._folder}: the disk has {left} left, {floor} are never taken")
        return index.size_bytes + need_bytes + INDEX_GROWS_BYTES <= self._cap_bytes

    def _remove(self, index: EvidenceIndex, going: list[Kept]) -> None:
        if not going:
            return
        try:
            index.forget(going)
        except StorageFailing:  # so full that not even a row can be removed: then the files have to go first
            for each in going:
                remove_picture(self._folder, each.file)
            index.forget(going)
        for each in going:
            remove_picture(self._folder, each.file)
        self.pruned += len(going)
        self._note_size(index)

    def _tidy_if_due(self, index: EvidenceIndex) -> None:
        """Too old, too many (a smaller cap since the last start), or the disk is needed by others."""
        now_s = self._monotonic_s()
        if now_s < self._next_tidy_s:
            return
        self._next_tidy_s = now_s + TIDY_EVERY_S
        if now_s >= self._next_age_s:
            self._next_age_s = now_s + AGE_EVERY_S
            most = max(1, int(index.pictures * AGE_SHARE))
            self._remove(index, index.older_than(self._utc_ns() - self._keep_ns, most))
        if self._failure:
            self._probe(index)
        self._make_room(index, 0, only_ok=False)

    def _probe(self, index: EvidenceIndex) -> None:
        """Can pictures be written again? Then say so, also when no part comes that would show it."""
        probe = "1970-01-01/probe.jpg"
        self._make_room(index, BUFFERS * 4096, only_ok=False)
        write_picture(self._folder, probe, bytes(4096))
        remove_picture(self._folder, probe)
        self._works_again()

    def _failed(self, err: StorageFailing | IndexBroken) -> None:
        self._close_index()
        self._distrusted = isinstance(err, IndexBroken)
        if not self._failure:
            log.error("evidence.failing", why=str(err))
        self._failure = str(err)
        self._blocked_until_s = self._monotonic_s() + self._backoff.next_s()
        self._next_tidy_s = self._blocked_until_s

    def _works_again(self) -> None:
        log.warning("evidence.works_again", stored=self.stored, skipped=self.skipped, failed=self.failed)
        self._failure = ""
        self._backoff.reset()

    def _close_index(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None

    def _note_size(self, index: EvidenceIndex) -> None:
        self._size_bytes, self._pictures = index.size_bytes, index.pictures
