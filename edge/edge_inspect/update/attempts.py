"""How often in a row the model that is to judge was what kept this box from judging: so that it, too, is given up.

    state_dir/update/attempts.json      {"digest": "sha256:...", "starts": 2, "why": "... [known-answer]"}

1. A start is counted, on disk, before the model's engine is built, and no more once it is built, warm and has given
   its known answers: what kills this process in between (no memory, a runtime that crashes) is counted, too.
2. A process that ends later counts only where the model, or its runtime, raised what ended it. A kill, a power cut, a
   camera's driver that crashes: nothing of that is held against a model that could judge.
3. The count is over when it has judged for GOOD_S, when the daemon ends because it was told to, and when it is kept.
4. Nothing is counted for the factory's model, nor for one on trial, whose starts `state.json` counts.
5. A disk that does not take a count costs that count, and nothing else.

    attempts = Attempts(folder, judging=lambda: digest)
    with attempts.building(package.digest):
        ...                                     # its engine
    attempts.ended_by(errors)
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import structlog
from pydantic import ValidationError

from edge_inspect.durable import remove_durably, write_durably
from edge_inspect.errors import BadModel, InspectError, StorageFailing
from edge_inspect.update.machine import one_line
from edge_wire.fields import Block, Count, Digest, OneLine

log = structlog.get_logger()

FILE_NAME = "attempts.json"
MOST_BYTES = 4096
GOOD_S = 300.0
_RUNTIME = "edge_inspect.inference"
_NOT_ITS_FAULT = frozenset({"no-such-variant", "recipe-class"})
"""Codes of BadModel that say what the configuration or a recipe asks of it."""


class Attempt(Block):
    digest: Digest
    starts: Count
    why: OneLine = ""
    """What it raised last; empty where the process was gone before it could say."""


class Attempts:
    """See the module; for any thread.

    judging: digest of the model whose starts count, None for none of them. frames: how many of them the model that
    judges has seen in this process.
    """

    def __init__(
        self, folder: Path, judging: Callable[[], str | None], *, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.frames: Callable[[], int] = lambda: 0
        self._path = folder / FILE_NAME
        self._judging = judging
        self._clock_s = clock_s
        self._lock = threading.RLock()
        self._said = _read(self._path)
        self._before = self._said
        """As it was when this process began, or its model came to judge."""
        self._judges_since_s: float | None = None

    def of(self, digest: str | None) -> Attempt | None:
        """What is held against it by now."""
        return self._said if self._said is not None and self._said.digest == digest else None

    @contextlib.contextmanager
    def building(self, digest: str) -> Iterator[None]:
        """Around what makes a model ready to judge; whichever model that is."""
        if digest != self._judging():
            yield
            return
        self._count(digest, "")
        try:
            yield
        except BaseException as err:
            if not isinstance(err, InspectError) or is_the_models(err):
                self._count(digest, str(err) or type(err).__name__)
            else:
                self._take_back()
            raise
        self._take_back()

    def look(self) -> None:
        """Now and then: has it judged for long enough?"""
        if self._said is None:
            return
        if self._judges_since_s is None and self.frames() > 0:
            self._judges_since_s = self._clock_s()
        if self._judges_since_s is not None and self._clock_s() - self._judges_since_s >= GOOD_S:
            self.over()

    def ended_by(self, errors: Sequence[BaseException]) -> None:
        """This process ends by what came out of the threads in which models run."""
        self.look()
        digest, its_own = self._judging(), [err for err in errors if is_the_models(err)]
        if digest is not None and its_own:
            self._count(digest, str(its_own[0]) or type(its_own[0]).__name__)

    def over(self) -> None:
        """Nothing is held against it any more."""
        with self._lock:
            self._before = None
            self._write(None)

    def _count(self, digest: str, why: str) -> None:
        with self._lock:
            if self._before is not None and self._before.digest != digest:
                self._before = None
            before = self._before.starts if self._before else 0
            self._write(Attempt(digest=digest, starts=before + 1, why=one_line(why)))

    def _take_back(self) -> None:
        with self._lock:
            self._write(self._before)

    def _write(self, said: Attempt | None) -> None:
        if said == self._said:
            return
        try:
            if said is None:
                remove_durably(self._path)
            else:
                write_durably(self._path, said.model_dump_json().encode())
        except StorageFailing as err:
            log.warning("whether the model that judges can be started is not counted", why=str(err))
        self._said = said


def is_the_models(err: BaseException) -> bool:
    """Whether a model, or the runtime that runs it, is what ended this."""
    if isinstance(err, InspectError):
        return isinstance(err, BadModel) and err.code not in _NOT_ITS_FAULT
    return isinstance(err, MemoryError) or _came_through_runtime(err)


def _came_through_runtime(err: BaseException) -> bool:
    trace = err.__traceback__
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__", "")).startswith(_RUNTIME):
            return True
        trace = trace.tb_next
    return False


def _read(path: Path) -> Attempt | None:
    """None, too, for what cannot be read: a model is not given up for that."""
    try:
        with path.open("rb") as stream:
            return Attempt.model_validate_json(stream.read(MOST_BYTES))
    except (OSError, ValidationError):
        return None
