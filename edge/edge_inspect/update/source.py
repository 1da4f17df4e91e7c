"""Where an updater's models come from: the repository itself, or what somebody else has fetched and offered.

1. What is offered is a claim: nothing of it is believed before its whole chain of signatures and every byte of its
   package were verified here (`offline`). Whoever can write `models_dir` can offer nothing but what was signed.
2. An offer that has not changed is verified once in the life of a process, and in VERIFY each time. One that did not
   verify (a clock that is wrong, a disk that fails) is looked at again with the next look.
3. With `fetch = "daemon"` the network is asked by this process; with `fetch = "service"`, or without a url, never.

    source = Offers(settings, asks=True)
    rollout = source.fetch(stop, progress)          # with its package
    rollout = source.newest(stop, alive)            # without: somebody waits
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import structlog

from edge_inspect.errors import BadModel, SourceGone, Untrusted
from edge_inspect.inference.package import ModelPackage
from edge_inspect.update.fetch import FetchSettings, fetch_once, newest
from edge_inspect.update.offers import Offer, offer_file
from edge_inspect.update.offline import check_offline
from edge_inspect.update.shelf import Shelf
from edge_inspect.update.state import Candidate
from edge_wire.release import Rollout

log = structlog.get_logger()

TIDY_WAIT_S = 2.0
Stamp = tuple[int, int, int] | None


class Offers:
    """`acts.Source` for real. asks: whether this process looks at the repository itself."""

    def __init__(self, settings: FetchSettings, *, asks: bool) -> None:
        assert settings.root is not None
        self._settings = settings
        self._root = settings.root
        self._asks = asks
        self._file = offer_file(settings.models_dir, settings.product, settings.channel)
        self._seen: Stamp = None
        self._rollout: Rollout | None = None
        """Verified; of the offer that was there at `_seen`."""

    def fetch(self, stop: threading.Event, progress: Callable[[float], None]) -> Rollout | None:
        """What is offered after a look; without a network, what is offered already."""
        is_new = self.news() or (not self._asks and self._is_unread())
        if is_new:
            self._believe_or_ask()
        if self._asks:
            try:
                self._ask(stop, progress)
            except SourceGone:
                if not is_new:
                    raise
            except BadModel:
                if not self.news():
                    raise
                # what is signed must not run: `verify` sees for itself, of a candidate that has a name
            if self.news() or self._is_unread():
                self._offered()
        return self._rollout

    def newest(self, stop: threading.Event, alive: Callable[[], None]) -> Rollout | None:
        """The newest that is known after a look at metadata and rollout; nothing of its package is fetched."""
        if self.news() or self._is_unread():
            self._believe_or_ask()
        if not self._asks:
            return self._rollout
        seen = newest(replace(self._settings, alive=alive), stop)
        if seen is None or (self._rollout is not None and self._rollout.sequence > seen.sequence):
            return self._rollout
        return seen

    def _believe_or_ask(self) -> None:
        """An old offer whose package has gone already is no reason not to look for a newer one."""
        try:
            self._offered()
        except (BadModel, Untrusted) as err:
            if not self._asks:
                raise
            if self._settings.changes.seen("old-offer", str(err)):
                log.info("update.old_offer", why=str(err))

    def _is_unread(self) -> bool:
        """There is an offer, and it did not verify."""
        return self._rollout is None and self._stamp() is not None

    def _ask(self, stop: threading.Event, progress: Callable[[float], None]) -> None:
        share = [0.0]

        def got(done: int, total: int) -> None:
            share[0] = done / total if total else 0.0
            progress(share[0])

        fetch_once(replace(self._settings, progress=got, alive=lambda: progress(share[0])), stop)

    def verify(self, candidate: Candidate) -> ModelPackage:
        _, package = self._checked(candidate.model.digest)
        assert package is not None
        return package

    def news(self) -> bool:
        return self._stamp() not in (None, self._seen)

    def tidy(self, wanted: set[str]) -> None:
        """Only by who fetches: another process would be in the middle of its work."""
        if not self._asks:
            return
        offered = {self._rollout.model.digest} if self._rollout else set()
        keep = {digest.removeprefix("sha256:") for digest in wanted | offered}
        shelf = Shelf(self._settings.models_dir)
        with shelf.hold(wait_s=TIDY_WAIT_S):
            shelf.discard(packages=keep, keys=())

    def _offered(self) -> None:
        self._seen, self._rollout = self._stamp(), None
        self._rollout = self._checked()[0].rollout

    def _checked(self, digest: str | None = None) -> tuple[Offer, ModelPackage | None]:
        settings = self._settings
        return check_offline(
            settings.models_dir, self._root, settings.product, settings.channel, built=settings.built,
            clock=settings.clock, digest=digest,
        )  # fmt: skip

    def _stamp(self) -> Stamp:
        """What changes with every new offer: they appear by rename."""
        try:
            found = self._file.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size
