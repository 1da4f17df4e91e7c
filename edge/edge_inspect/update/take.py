"""Signed files onto the shelf, each one once: what is there and right is not fetched again.

blob = Taker(shelf, trust, source).take(trust.target("metal-plate/channels/stable.json"))
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tuf.api.metadata import TargetFile

from edge_inspect.update.download import Download, Throttle
from edge_inspect.update.shelf import Shelf
from edge_inspect.update.transport import Source
from edge_inspect.update.trust import Trust, check_bytes, key_of


class Taker:
    """One look's worth: rate and deadline of `source.limits` hold for all its files together."""

    def __init__(self, shelf: Shelf, trust: Trust, source: Source) -> None:
        self._shelf = shelf
        self._trust = trust
        self._source = source
        self._throttle = Throttle(source.limits.rate_bytes_per_s, source.stop)
        self._until_s = time.monotonic() + source.limits.deadline_s

    def has(self, info: TargetFile) -> bool:
        return self._shelf.has(key_of(info), partial(check_bytes, info))

    def take(self, info: TargetFile, progress: Callable[[int, int], None] = lambda done, length: None) -> Path:
        """The blob of this target. Raises SourceGone, Untrusted, StorageFailing."""
        key = key_of(info)
        if not self.has(info):
            download = Download(
                self._source, self._trust.url_of(info), self._shelf.part(key), info.length, partial(check_bytes, info),
                progress=progress,
            )  # fmt: skip
            download.run(until_s=self._until_s, throttle=self._throttle)
            self._shelf.accept(key)
        return self._shelf.blob(key)
