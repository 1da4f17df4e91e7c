"""Notices that another device has used our name, at brokers that do not say so (mosquitto before 2.1, MQTT 3.1.1).

The broker keeps the last state that was published under our name. If this process has published its own and finds
another epoch there when it comes back, somebody else was here in between. Epochs never come twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from edge_inspect.delivery.paho_client import Received
from edge_wire.messages import BadMessage, DeviceState

REMEMBERED_S = 3600.0


class Twin:
    """One thread's: told of our own states once the broker has them, and of what it had kept."""

    def __init__(self, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._ours: set[str] = set()
        self._monotonic_s = monotonic_s
        self._seen_s: float | None = None

    @property
    def about(self) -> bool:
        """Whether another one was seen within the last hour."""
        return self._seen_s is not None and self._monotonic_s() - self._seen_s < REMEMBERED_S

    def announced(self, state: DeviceState) -> None:
        """The broker has confirmed a state of ours."""
        if state.epoch is not None:
            self._ours.add(state.epoch)

    def betrayed_by(self, message: Received) -> bool:
        """Whether this is the kept state of somebody else."""
        if not message.retained or not self._ours:
            return False
        try:
            state = DeviceState.from_bytes(message.payload)
        except BadMessage:
            return False
        if state.epoch is None or state.epoch in self._ours:
            return False
        self._seen_s = self._monotonic_s()
        return True
