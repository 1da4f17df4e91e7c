"""A SocketLine in its own thread that answers every trigger, for whoever wants to talk to one."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from edge_inspect.line.protocol import Answer, AnswerKind, Trigger
from edge_inspect.line.socket import SocketLine

WAIT_S = 30.0
FAR_NS = 3_600 * 10**9


def answer(trigger: Trigger, kind: AnswerKind = "OK", reason: str = "no-defect") -> Answer:
    return Answer(trigger.sequence, kind, reason, 3, trigger, trigger.at_ns + 8_400_000, trigger.at_ns + FAR_NS)


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


class Served:
    """Serves `path` until `end`; `triggers` are those that came."""

    def __init__(self, path: Path, *, takes_triggers: bool = True, answers: bool = True) -> None:
        self.line = SocketLine(path)
        self.triggers: list[Trigger] = []
        self.error: BaseException | None = None
        self._answers = answers
        self._stop = threading.Event()
        self._came = threading.Condition()
        self._thread = threading.Thread(target=self._run, args=(self._fire if takes_triggers else None,))
        self._thread.start()
        until = time.monotonic() + WAIT_S
        while self.error is None and not connects(path):
            assert time.monotonic() < until
            time.sleep(0.01)

    def _run(self, fire: Callable[[Trigger], None] | None) -> None:
        try:
            self.line.run(self._stop, fire)
        except BaseException as err:  # noqa: BLE001 - the test looks at it
            self.error = err

    def _fire(self, trigger: Trigger) -> None:
        with self._came:
            self.triggers.append(trigger)
            self._came.notify_all()
        if self._answers:
            self.line.tell(answer(trigger))

    def wait_for_triggers(self, count: int) -> None:
        with self._came:
            assert self._came.wait_for(lambda: len(self.triggers) >= count, WAIT_S), f"{len(self.triggers)} came"

    def end(self) -> None:
        self._stop.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
