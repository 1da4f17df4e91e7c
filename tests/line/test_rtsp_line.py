"""Network camera to verdict: whatever the network does, a verdict rests on the picture it is told for, in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_inspect.capture.protocol import Pixels
from edge_inspect.capture.ring import Slot
from edge_inspect.capture.rtsp import RtspCamera
from edge_inspect.config import config_from_options
from edge_inspect.daemon import Appliance
from edge_inspect.inference.decode import Detections
from edge_inspect.pipeline import Judged, Lane
from edge_inspect.verdict.parts import Look
from tests.sim.chaos import ChaosProxy
from tests.sim.rtp import LoseRtp
from tests.sim.rtsp import RtspServer, number_in, require_rtsp_server

pytestmark = pytest.mark.slow
OLDER_THAN_TOLD_MS = 500
"""How much older than the appliance says a picture may be: the sender's own delay, which nobody can see from here."""


class Witness:
    """Holds each verdict against the number in the picture it was told with: odd ones have a red spot."""

    def __init__(self, server: RtspServer) -> None:
        self._server = server
        self.kinds: list[str] = []
        self.reasons: set[str] = set()
        self.wrong: list[str] = []
        self.sure: list[int] = []

    def judged(self, lane: Lane, judged: Judged, pixels: Pixels | None) -> None:
        kind = judged.verdict.kind.value
        self.kinds.append(kind)
        if kind == "UNKNOWN" or pixels is None:
            self.reasons.add(judged.verdict.reason)
            return
        number = number_in(pixels)[0]
        age_ms = (judged.verdict_ns - self._server.taken_ns(number)) / 1e6
        if kind != ("NG" if number % 2 else "OK"):
            self.wrong.append(f"picture {number} was {kind}")
        if age_ms > judged.age_ms + OLDER_THAN_TOLD_MS:
            self.wrong.append(f"picture {number} was {age_ms:.0f} ms old, told as {judged.age_ms:.0f}")
        self.sure.append(number)

    def frame(self, lane: Lane, slot: Slot, looks: list[Look], found: Detections | None) -> None:
        """Verdicts are enough."""

    def wait_for(self, more: int, deadline_s: float = 60.0) -> None:
        """Wait until so many more pictures were judged OK or NG."""
        wanted, until = len(self.sure) + more, time.monotonic() + deadline_s
        while len(self.sure) < wanted:
            assert time.monotonic() < until, f"{len(self.sure)} of {wanted} verdicts; unknown: {self.reasons}"
            threading.Event().wait(0.02)


@pytest.fixture
def server() -> Iterator[RtspServer]:
    require_rtsp_server()
    running = RtspServer("--spots", "--slices", "1", "--mtu", "300")
    yield running
    running.stop()


def stall(net: ChaosProxy, lose: LoseRtp, witness: Witness) -> None:
    net.stall()
    threading.Event().wait(1.6)
    net.flow()


def black_hole(net: ChaosProxy, lose: LoseRtp, witness: Witness) -> None:
    net.stall()
    threading.Event().wait(4.0)
    net.flow()


def cut(net: ChaosProxy, lose: LoseRtp, witness: Witness) -> None:
    net.reset()


def loss(net: ChaosProxy, lose: LoseRtp, witness: Witness) -> None:
    lose.active.set()
    witness.wait_for(20)
    lose.active.clear()


FAULTS = [
    pytest.param(stall, {"frames-lost", "camera-lost"}, id="stall"),
    pytest.param(black_hole, {"camera-lost"}, id="black hole"),
    pytest.param(cut, {"camera-lost"}, id="reset"),
    pytest.param(loss, {"corrupt"}, id="packet loss"),
]


@pytest.mark.parametrize(("fault", "reasons"), FAULTS)
def test_no_fault_of_the_network_reaches_a_verdict(
    tmp_path: Path,
    tiny_model: Path,
    recipe: Path,
    server: RtspServer,
    fault: Callable[[ChaosProxy, LoseRtp, Witness], None],
    reasons: set[str],
) -> None:
    config = config_from_options(
        camera="sim", state=tmp_path, provider="cpu", threads=1, recipe=recipe, model=str(tiny_model)
    )
    lose, witness, stop = LoseRtp(every=23), Witness(server), threading.Event()
    with ChaosProxy(server.port, new_filter=lambda: lose) as net:
        camera = RtspCamera(f"rtsp://127.0.0.1:{net.port}/clock")
        line = Appliance(config, cameras={config.camera[0].name: camera}, watchers=(witness,), deliver=False)
        thread = threading.Thread(target=line.run, args=(stop,))
        thread.start()
        try:
            witness.wait_for(20)
            fault(net, lose, witness)
            witness.wait_for(20)
        finally:
            net.flow()
            stop.set()
            thread.join(timeout=20)
        assert not thread.is_alive()
    assert witness.wrong == []
    assert reasons & witness.reasons
    assert witness.sure == sorted(set(witness.sure)), "no picture is judged twice"
    assert len({number % 2 for number in witness.sure}) == 2
