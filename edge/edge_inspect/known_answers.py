"""Asks every model in use its known answers, again and again, while it judges.

1. Each golden picture of each engine every few minutes, one at a time, so that no frame waits for more than one.
2. A runtime that computes nonsense must not go on judging: a wrong answer is BadModel and ends the process. Not of a
   model on trial: from then on it is not believed, its parts are UNKNOWN, and whoever tries it goes back.

    answers = KnownAnswers()
    answers.look(lanes, line_waits=False)       # between two frames
    answers.doubt                               # after that BadModel: whose results are not to be believed, since when
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import structlog

from edge_inspect.errors import BadModel
from edge_inspect.inference.engine import Engine
from edge_inspect.lane import Lane

log = structlog.get_logger()

EVERY_S = 300.0
EVERY_ON_TRIAL_S = 20.0
MOST_QUESTIONS = 20
"""That a package has golden pictures."""
WRONG = "known-answer"


@dataclass(frozen=True, slots=True)
class Doubt:
    """What a model said after `since` rests on a runtime that computes nonsense now."""

    model: str
    """The package's digest."""
    since: datetime
    """When it gave its last right answer, or was fitted."""
    why: str


class KnownAnswers:
    """Used by the inspect thread."""

    def __init__(self) -> None:
        self.doubt: Doubt | None = None
        self._right_at: dict[int, datetime] = {}
        self._asked_at = time.monotonic()
        self._next = 0

    def look(self, lanes: Sequence[Lane], line_waits: bool) -> None:
        """Ask the next question if it is due. Raises BadModel `known-answer`."""
        since_s = time.monotonic() - self._asked_at
        if since_s < min(EVERY_S, EVERY_ON_TRIAL_S) / MOST_QUESTIONS:
            return
        models = [lane.model for lane in lanes]
        on_trial = any(model.on_trial and not model.distrusted for model in models)
        every_s = EVERY_ON_TRIAL_S if on_trial else EVERY_S
        engines = {id(model.engine): model.engine for model in models}
        if self._right_at.keys() != engines.keys():  # a new one has just given all its known answers
            now = datetime.now(timezone.utc)
            self._right_at = {key: self._right_at.get(key, now) for key in engines}
        questions = [(engine, number) for engine in engines.values() for number in range(engine.known_answers)]
        if since_s < every_s / max(1, len(questions)) or (line_waits and since_s < 2 * every_s):
            return
        if questions:
            self._ask(lanes, *questions[self._next % len(questions)])
            self._next += 1
        self._asked_at = time.monotonic()

    def _ask(self, lanes: Sequence[Lane], engine: Engine, number: int) -> None:
        try:
            engine.known_answer(number)
            self._right_at[id(engine)] = datetime.now(timezone.utc)
        except BadModel as err:
            models = [lane.model for lane in lanes if lane.model.engine is engine]
            if not all(model.on_trial for model in models):
                self.doubt = Doubt(models[0].ref.digest, self._right_at[id(engine)], str(err))
                raise
            log.warning("model.known_answer_wrong", why=str(err), model=models[0].ref.digest)
            for model in models:
                model.counts.known_answer_failures += 1
                model.distrusted = WRONG
