"""Looking at the repository again and again, for ever: with jitter, sooner when somebody hints, later when it is gone.

1. Waits are up to a tenth longer or shorter: a plant's boxes do not come in step. After a start the first look comes
   within a tenth of the pause.
2. A hint (the time stamp of a file that the daemon touches) only shortens a wait: signatures decide what is taken. Of
   hinted looks there is at most one a minute, whoever hints and however often; one that comes in between is not lost.
3. While the repository is gone waits grow, up to the usual pause. What is refused is looked at again at the next one.
4. One log line when a look begins to fail, or fails for another reason, and one when it works again.

    Poller(look, pause_s=600, hint_file=state_dir / FOLDER / HINT_NAME).run(stop)
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from edge_inspect.backoff import Backoff
from edge_inspect.errors import BadConfig, InspectError, World

log = structlog.get_logger()

JITTER = 0.1
FIRST_RETRY_S = 10.0
STEP_S = 0.5
HINT_NAME = "hint"
"""Below the folder of the daemon's state."""
BETWEEN_HINTS_S = 60.0


class Poller:
    """look: one look at the repository, which calls what it is given as long as it gets on; raises InspectError for
    what may be tried again."""

    def __init__(
        self,
        look: Callable[[Callable[[], None]], object],
        *,
        pause_s: float,
        hint_file: Path | None = None,
        random01: Callable[[], float] = random.random,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.beat_ns: int | None = time.monotonic_ns()
        self.looks = 0
        self.trouble = ""
        """Why the last look failed; empty when it did not."""
        self._look = look
        self._pause_s = pause_s
        self._hint_file = hint_file
        self._random01 = random01
        self._clock_s = clock_s
        self._hinted = self._hint()
        """The last one that was followed."""
        self._next_hinted_s = clock_s()
        self._backoff = Backoff(min(FIRST_RETRY_S, pause_s), pause_s, random01=random01)

    def run(self, stop: threading.Event) -> None:
        """Until `stop`. Raises BadConfig, and bugs."""
        wait_s = self._pause_s * JITTER * self._random01()
        while not self._rest(wait_s, stop):
            wait_s = self.look_once()

    def look_once(self) -> float:
        """One look; how long to wait for the next."""
        self.alive()
        self.looks += 1
        try:
            self._look(self.alive)
        except BadConfig:
            raise
        except InspectError as err:
            self._tell(err)
            if isinstance(err, World):
                return self._backoff.next_s()
        else:
            if self.trouble:
                log.info("the repository is all right again")
            self.trouble = ""
        self._backoff.reset()
        return self._pause_s * (1 - JITTER + 2 * JITTER * self._random01())

    def alive(self) -> None:
        self.beat_ns = time.monotonic_ns()

    def _tell(self, err: InspectError) -> None:
        code = err.code or type(err).__name__
        if code not in (self.trouble, "stopped"):
            log.warning("nothing could be fetched, what runs goes on", code=code, why=str(err))
        self.trouble = code

    def _rest(self, seconds: float, stop: threading.Event) -> bool:
        """Wait so long, until a hint may be followed, or until `stop`: True."""
        until_s = self._clock_s() + seconds
        while (now_s := self._clock_s()) < until_s:
            hint = self._hint()
            if hint != self._hinted and now_s >= self._next_hinted_s:
                self._hinted, self._next_hinted_s = hint, now_s + BETWEEN_HINTS_S
                break
            if stop.wait(min(until_s - now_s, STEP_S)):
                return True
            self.alive()
        return stop.is_set()

    def _hint(self) -> int:
        try:
            return self._hint_file.stat().st_mtime_ns if self._hint_file else 0
        except OSError:
            return 0
