"""Waking another thread out of its wait."""

from __future__ import annotations

import select

from edge_inspect.waker import Waker


def test_wait_ends_once_for_any_number_of_wakes_and_waking_never_waits() -> None:
    waker = Waker()
    poller = select.poll()
    poller.register(waker, select.POLLIN)
    assert not poller.poll(0)
    for _ in range(100_000):  # far more than the socket holds
        waker.wake()
    while poller.poll(0):
        waker.drain()
    waker.drain()
    waker.wake()
    assert poller.poll(0)
    waker.close()
    waker.wake()
