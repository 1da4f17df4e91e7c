"""How long to stay away after a connection failed or ended, by the reason.

1. It is tried for ever. Waits double and have +-50 % of jitter: the devices of a plant do not come back in step.
2. The network: soon, and soon again after a connection that held. `SAYS_NO`: what only a person or a renewed file can
   change is asked less often; nobody is locked out for asking too fast. `TAKEN_OVER`: two devices with one name must
   not throw each other out over and over: a long wait that only starts anew after an hour in peace.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from edge_inspect.backoff import Backoff

SAYS_NO = frozenset(
    {
        "wrong-host", "certificate-expired", "certificate-not-yet-valid", "certificate-revoked", "untrusted-ca",
        "crl-missing", "crl-expired", "bad-certificate", "not-tls", "credentials",
        "client-certificate-expired", "client-certificate-not-yet-valid", "client-certificate-revoked",
        "client-certificate-unknown-ca", "client-certificate-missing", "client-certificate-refused",
        "refused-auth", "refused-protocol", "refused-client-id", "refused-quota", "refused-publish",
    }
)  # fmt: skip
TAKEN_OVER = "taken-over"
RENEWED = "renewed-certificate"
"""We left to come back with new files: at once."""


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds: the first wait (about), the longest, and how long a connection must hold to start anew."""

    network: tuple[float, float, float] = (1.0, 30.0, 10.0)
    says_no: tuple[float, float, float] = (4.0, 60.0, 10.0)
    taken_over: tuple[float, float, float] = (30.0, 600.0, 3600.0)


class Retry:
    """One backoff a kind of reason."""

    def __init__(self, waits: Waits | None = None, *, random01: Callable[[], float] = random.random) -> None:
        waits = waits or Waits()
        kinds = (waits.network, waits.says_no, waits.taken_over)
        self._held_s = [held for _, _, held in kinds]
        self._backoffs = [Backoff(first, longest, random01=random01) for first, longest, _ in kinds]

    def wait_s(self, code: str, held_s: float) -> float:
        """After a connection that held `held_s` (0: there was none) ended for the reason `code`."""
        for backoff, enough_s in zip(self._backoffs, self._held_s, strict=True):
            if held_s > enough_s:
                backoff.reset()
        if code == RENEWED:
            return 0.0
        return self._backoffs[2 if code == TAKEN_OVER else 1 if code in SAYS_NO else 0].next_s()
