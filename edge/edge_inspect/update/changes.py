"""One line in the log for each change of what is found: the same thing found again, at every look, is no news.

A look forgets everything; what lives longer than a look is told what it finds, and says whether that is news.

    if settings.changes.seen("rollout", rollout):
        log.info(...)
"""

from __future__ import annotations


class Changes:
    """One thread's, for the life of a process."""

    def __init__(self) -> None:
        self._last: dict[str, object] = {}

    def seen(self, about: str, now: object) -> bool:
        """Whether it is another one than last time. None: there is nothing to be told."""
        before = self._last.get(about)
        self._last[about] = now
        return now is not None and now != before
