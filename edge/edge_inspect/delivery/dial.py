"""A TCP connection to a name, in bounded time: dead name servers hold nobody up, and no address is left untried.

1. Names are looked up anew for each connection, so a broker that moves is found; numbers need no name server.
2. A look-up that does not come back is given up after `RESOLVE_S`. Its thread cannot be ended: the next call waits for
   the same one instead of starting another, so there is never more than one.
3. Addresses are tried in the resolver's order, IPv6 and IPv4 alike, all of them together in twice `timeout_s`.
4. While it waits it calls `alive` about twice a second.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from edge_inspect.delivery.link_errors import LinkLost

RESOLVE_S = 12.0
"""More than one dead name server costs (5 s by default), less than a person would wait."""
LOOK_EVERY_S = 0.5
LEAST_S = 0.5
"""For the last addresses of a long list, when most of the time is used up."""

Address = tuple[Any, ...]


class _Lookup(threading.Thread):
    def __init__(self, host: str, port: int) -> None:
        super().__init__(name="resolver", daemon=True)
        self.asked = (host, port)
        self.found: list[Address] = []
        self.failure: OSError | None = None

    def run(self) -> None:
        try:
            self.found = list(socket.getaddrinfo(*self.asked, type=socket.SOCK_STREAM))
        except OSError as err:  # socket.gaierror
            self.failure = err
        except UnicodeError as err:  # a label of more than 63 characters
            self.failure = socket.gaierror(socket.EAI_NONAME, str(err))


class Dialer:
    """Keeps a look-up that hangs, so that there is only one. For one thread at a time."""

    def __init__(self, *, resolve_s: float | None = None, alive: Callable[[], None] = lambda: None) -> None:
        self._resolve_s = RESOLVE_S if resolve_s is None else resolve_s
        self._alive = alive
        self._lookup: _Lookup | None = None

    def dial(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """Connected, with `timeout_s` still set on it. Raises LinkLost or OSError (of the last address)."""
        failure: OSError | None = None
        addresses = self.addresses(host, port)
        until_s = time.monotonic() + 2 * timeout_s
        for family, kind, protocol, _, where in addresses:
            left_s = until_s - time.monotonic()
            if failure is not None and left_s < LEAST_S:
                break
            self._alive()
            try:
                return self._try(family, kind, protocol, where, min(timeout_s, left_s), timeout_s)
            except OSError as err:
                failure = err
        raise failure or socket.gaierror(socket.EAI_NONAME, "the name has no address")

    def addresses(self, host: str, port: int) -> list[Address]:
        """Where that name leads now. Raises LinkLost, socket.gaierror."""
        try:
            return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
        except (socket.gaierror, UnicodeError):
            pass  # a name, then
        lookup = self._lookup
        if lookup is None or lookup.asked != (host, port):
            lookup = self._lookup = _Lookup(host, port)
            lookup.start()
        until_s = time.monotonic() + self._resolve_s
        while lookup.is_alive() and time.monotonic() < until_s:
            self._alive()
            lookup.join(LOOK_EVERY_S)
        if lookup.is_alive():
            raise LinkLost("name-resolution", f"{host}:{port}: no name server answered within {self._resolve_s:.0f} s")
        self._lookup = None
        if lookup.failure is not None:
            raise lookup.failure
        return lookup.found

    @staticmethod
    def _try(family: int, kind: int, protocol: int, where: Any, wait_s: float, timeout_s: float) -> socket.socket:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(max(wait_s, 0.01))
            connection.connect(where)
            connection.settimeout(timeout_s)
        except BaseException:
            connection.close()
            raise
        return connection
