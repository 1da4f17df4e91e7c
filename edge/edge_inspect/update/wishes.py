"""What is wanted while a model is tried or fetched: by a person, by a newer rollout; and where rollouts come from.

1. A person is heard within a second wherever the updater waits; a look at the repository breaks off for that.
2. While a candidate is tried, only metadata and the rollout are looked at: no package is brought here, and the look
   breaks off as soon as the candidate is decided.
3. A look that fails is told once, and once when it works again.

    wishes = Wishes(desk, source, looks, pulse, box)
    wishes.withdrawn(state, candidate, shadowed, decided)       # None, or why the candidate has to go
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import structlog

from edge_inspect.errors import InspectError
from edge_inspect.inference.package import ModelPackage
from edge_inspect.update.choose import Names
from edge_inspect.update.machine import Result, result_of
from edge_inspect.update.pace import Interrupt, Looks, Pulse
from edge_inspect.update.record import PERSON_WENT_BACK
from edge_inspect.update.requests import Answer, Desk, Request
from edge_inspect.update.revoked import why_revoked
from edge_inspect.update.stages import Outcome
from edge_inspect.update.state import Candidate, Shadowed, State, channel_of
from edge_wire.release import Rollout

log = structlog.get_logger()

PATIENCE_S = 180.0
"""How long the repository may bring nothing before that counts as hanging."""


class Source(Protocol):
    """Where models come from, and who vouches for them."""

    def fetch(self, stop: threading.Event, progress: Callable[[float], None]) -> Rollout | None:
        """Look once. A rollout is returned with its package here; None: nothing new.

        Raises Untrusted, BadModel, SourceGone (`stopped` once `stop` is set), StorageFailing.
        """

    def newest(self, stop: threading.Event, alive: Callable[[], None]) -> Rollout | None:
        """Look once, at metadata and rollout only: nothing of its package is fetched. Raises as `fetch`."""

    def verify(self, candidate: Candidate) -> ModelPackage:
        """Signatures and every byte, from this box's own files. Raises Untrusted, BadModel, StorageFailing."""

    def news(self) -> bool:
        """Whether somebody else (the fetch service, `model import`) has brought something since the last look."""

    def tidy(self, wanted: set[str]) -> None:
        """Remove packages whose digest is not wanted. Raises StorageFailing."""


class Wishes:
    """See the module; one thread's, and those that work for it while it waits."""

    def __init__(self, desk: Desk, source: Source, looks: Looks, pulse: Pulse, box: Names) -> None:
        self._desk = desk
        self._source = source
        self._looks = looks
        self._pulse = pulse
        self._box = box
        self._asked: tuple[str, Request] | None = None
        self._trouble = ""

    def request(self) -> Request | None:
        """What a person asks for; the same one until it is answered."""
        if self._asked is None:
            self._asked = self._desk.next()
        return self._asked[1] if self._asked else None

    def answer(self, ok: bool, code: str, text: str) -> None:
        """To the person who waits, if one does."""
        if self._asked is not None:
            self._desk.answer(self._asked[0], Answer(ok=ok, code=code, text=text[:200]))
            self._asked = None

    def withdrawn(
        self,
        state: State,
        candidate: Candidate,
        shadowed: Shadowed | None = None,
        decided: Callable[[], bool] | None = None,
    ) -> Result | None:
        """Whether a person or a newer rollout wants the candidate to go.

        decided: whether it has come to its end meanwhile; without it nobody looks for a newer rollout.
        """
        if (request := self.request()) is not None:
            if request.kind == "rollback":
                why = request.why or "taken back by hand"
                return Result(Outcome.WITHDRAWN, PERSON_WENT_BACK, why, by=request.by, shadowed=shadowed)
            if request.digest == candidate.model.digest:
                self.answer(True, "", f"{shown(candidate)} is being tried already")
            else:
                self.answer(False, "busy", f"{shown(candidate)} is being tried; `model rollback` takes it back first")
            return None
        if decided is None or not (self._looks.due() or self._source.news()):
            return None
        self._looks.looked()
        rollout = self._newest(decided)
        return self._overtaken(state, candidate, shadowed, rollout) if rollout is not None else None

    def _newest(self, decided: Callable[[], bool]) -> Rollout | None:
        """None, too, where it cannot be had now."""
        interrupt = Interrupt(self._pulse.stop, lambda: self.request() is not None or decided())
        self._pulse.allow(PATIENCE_S)
        try:
            rollout = self._source.newest(interrupt, lambda: self._pulse.allow(PATIENCE_S))
        except InspectError as err:
            self._pulse.check()
            if interrupt.is_set():
                self._looks.at_once()
            else:
                self._tell(result_of(err).code, str(err))
            return None
        self._pulse.check()
        self._tell("", "")
        return rollout

    def _overtaken(
        self, state: State, candidate: Candidate, shadowed: Shadowed | None, rollout: Rollout
    ) -> Result | None:
        if candidate.model.digest in rollout.revoked:
            why = why_revoked(state, candidate.model.digest, rollout)
            return Result(Outcome.REFUSED, "revoked", why, seen=rollout, shadowed=shadowed)
        newer = channel_of(rollout) == candidate.channel and rollout.sequence > candidate.sequence
        other = rollout.concerns(*self._box) and rollout.model.digest != candidate.model.digest
        if newer and (other or state.active in rollout.revoked):
            self._looks.at_once()
            return Result(Outcome.WITHDRAWN, "overtaken", f"sequence {rollout.sequence} is newer", shadowed=shadowed)
        return None

    def _tell(self, code: str, why: str) -> None:
        """One line for each change."""
        if code == self._trouble:
            return
        if code:
            log.info("could not look for a newer rollout", code=code, why=why)
        else:
            log.info("looking for a newer rollout works again", after=self._trouble)
        self._trouble = code


def shown(candidate: Candidate) -> str:
    return f"{candidate.model.name} {candidate.model.version}"
