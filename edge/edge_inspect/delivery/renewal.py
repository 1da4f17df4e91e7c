"""Notices that certificate, key, CA or password on the disk have changed, and tries them before the old link goes.

1. A change counts once the files stayed the same for SETTLE_S: certificate and key are written one after the other.
2. New files are tried with a TLS handshake of their own. If that fails the old connection stays, the reason is an
   alarm, and the same files are not tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from edge_inspect.delivery.broker import Broker
from edge_inspect.delivery.certificate_dates import dates_of
from edge_inspect.delivery.dial import Dialer
from edge_inspect.delivery.link import try_tls
from edge_inspect.delivery.link_errors import LinkLost
from edge_inspect.delivery.retry import SAYS_NO
from edge_wire.messages import Degraded

LOOK_EVERY_S = 1.0
SETTLE_S = 2.0
ENDS_SOON = timedelta(days=14)


class Renewal:
    """`connecting` before each connection; then `look` over and over."""

    def __init__(
        self,
        broker: Broker,
        dialer: Dialer,
        *,
        settle_s: float = SETTLE_S,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.refused: LinkLost | None = None
        """Why the newest files are not used."""
        self._broker = broker
        self._dialer = dialer
        self._settle_s = settle_s
        self._monotonic_s = monotonic_s
        self._used = self._seen = broker.files_now()
        self._seen_s = monotonic_s()
        self._next_look_s = 0.0
        self._ends: datetime | None = None
        self._broker_ends: datetime | None = None

    def connecting(self) -> None:
        """The files as they are now are about to be used."""
        self._used = self._seen = self._broker.files_now()
        self.refused = None
        dates = dates_of(self._broker.cert) if self._broker.cert is not None else None
        self._ends = None if dates is None else dates.ends

    def connected(self, broker_certificate_ends: datetime | None) -> None:
        self._broker_ends = broker_certificate_ends

    def changed(self) -> bool:
        """Whether there are other files than those in use, and they have settled. Looks about once a second."""
        now_s = self._monotonic_s()
        if now_s < self._next_look_s:
            return False
        self._next_look_s = now_s + min(LOOK_EVERY_S, self._settle_s)
        files = self._broker.files_now()
        if files != self._seen:
            self._seen, self._seen_s = files, now_s
        return files != self._used and now_s - self._seen_s >= self._settle_s

    def usable(self) -> bool:
        """Try the new files beside the connection that stands; False: they are no good, keep it."""
        try:
            if self._broker.tls:
                try_tls(self._broker, self._dialer)
        except LinkLost as err:
            self.refused = err
            self._seen_s = self._monotonic_s()
            if err.code in SAYS_NO:  # anything else is no fault of the files: they are tried again
                self._used = self._seen
            return False
        self._used = self._seen
        return True

    def alarms(self) -> list[Degraded]:
        found = []
        if (refused := self.refused) is not None:
            detail = f"the new files are not used ({refused.code}): {refused}"
            found.append(Degraded(code="renewal-refused", detail=detail[:200]))
        soon = datetime.now(timezone.utc) + ENDS_SOON
        for code, whose, ends in (
            ("certificate-ends", "this device's", self._ends),
            ("broker-certificate-ends", "the broker's", self._broker_ends),
        ):
            if ends is not None and ends < soon:
                found.append(Degraded(code=code, detail=f"{whose} certificate ends {ends:%Y-%m-%d %H:%M} UTC"))
        return found
