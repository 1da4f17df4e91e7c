"""A running appliance on a simulated line, and a repository that releases one candidate after the other to it.

1. Everything is the product's own: signatures, download, probe in its child process, shadow, trial, state on disk.
2. How long a candidate answered the line is heard in the inspect thread, part by part, by the digest in each verdict.
3. The lamp can be turned down while a candidate is tried: a line that changes, which the old model sees, too.

    with Line(folder, "fp32", options) as line:
        came = line.try_out(candidate, package_folder)
"""

from __future__ import annotations

import argparse
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_inspect.capture.protocol import Pixels
from edge_inspect.capture.sim import SimCamera
from edge_inspect.config import Config, config_from_options
from edge_inspect.config_update import UpdateConfig
from edge_inspect.daemon import Appliance
from edge_inspect.inference.package import find_model
from edge_inspect.lane import Judged, Lane
from edge_inspect.update.requests import Request, ask, wait_for
from edge_inspect.update.store import look
from edge_wire.messages import Desired
from tests.campaign.bad_models import DIM, SCRATCH
from tests.sim.tuf_repository import PRODUCT, TufRepository, TufServer

MODEL = "metal-plate/1.0.0"
WAIT_S = 2400.0
PAUSE_S = 0.05
STAGES = ("fetch", "verify", "probe", "shadow", "trial")


@dataclass(frozen=True)
class Candidate:
    name: str
    file: Path
    precision: str
    is_good: bool
    classes: tuple[str, ...] = (SCRATCH,)
    hidden: bool = False
    dims: bool = False
    """The lamp over the line grows dim when its trial begins."""


@dataclass
class Came:
    """What became of one candidate."""

    name: str
    is_good: bool
    stage: str
    """That said no; empty: it was kept."""
    code: str = ""
    why: str = ""
    seconds: float = 0.0
    """That it judged the line until it was taken back; so with frames and parts."""
    frames: int = 0
    parts: int = 0
    took_s: float = 0.0


class Lamp(SimCamera):
    """The simulated line; its `light` can be turned down."""

    pause_s = 0.0
    """Between two frames: nobody needs parts while a candidate is fetched and probed, but the probe needs a core."""

    def show(self, index: int, pixels: Pixels) -> None:
        time.sleep(self.pause_s)
        super().show(index, pixels)


class Ear:
    """Hears each verdict in the inspect thread: how long which model judged."""

    def __init__(self, lamp: Lamp) -> None:
        self.digest = ""
        self.dims = False
        self.parts = self.frames = 0
        self.seconds = 0.0
        self.unknown: Counter[str] = Counter()
        self._lamp = lamp
        self._began: tuple[int, float] | None = None

    def listen_for(self, digest: str, dims: bool) -> None:
        self.digest, self.dims, self._began = digest, dims, None
        self.parts = self.frames = 0
        self.seconds = 0.0

    def tell(self, lane: Lane, judged: Judged) -> None:
        if judged.verdict.kind.value == "UNKNOWN":
            self.unknown[judged.verdict.reason] += 1
        if judged.model is None or judged.model.digest != self.digest:
            return
        now_s = time.monotonic()
        if self._began is None:
            self._began = judged.frame_index, now_s
            if self.dims:
                self._lamp.light = DIM
        self.parts += 1
        self.frames = judged.frame_index - self._began[0] + 1
        self.seconds = now_s - self._began[1]


class Line:
    """A running appliance and the repository that it follows."""

    def __init__(self, folder: Path, precision: str, options: argparse.Namespace) -> None:
        self._folder = folder
        self._options = options
        self._repository = TufRepository()
        self._sequence = 0
        self._lamp = Lamp(
            seed=options.seed, px_per_frame=options.px_per_frame, ng_share=options.ng_share, paced=False
        )  # fmt: skip
        self.ear = Ear(self._lamp)
        self._precision = precision
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="appliance")
        self._stack = ExitStack()

    def __enter__(self) -> Line:
        server = self._stack.enter_context(TufServer(self._repository))
        self.config = self._config(server.url)
        self.appliance = Appliance(self.config, cameras={"camera": self._lamp}, tell=self.ear.tell)
        self.factory = self.appliance.models.active()
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join(timeout=60)
        self._stack.close()

    def try_out(self, candidate: Candidate, package: Path) -> Came:
        """Release it; what its way through the stages came to."""
        began_s = time.monotonic()
        self._sequence += 1
        self._forget_old_releases()
        limits = {
            "shadow": {"parts": self._options.shadow_parts, "least_rejected": min(10, self._options.shadow_parts // 6)},
            "trial": {"parts": self._options.trial_parts, "least_s": self._options.trial_least_s},
        }
        rollout = self._repository.release(package, self._sequence, **limits)
        digest = rollout.model.digest
        self.ear.listen_for(digest, candidate.dims)
        assert self.appliance.updates is not None
        hint = Desired(product=PRODUCT, channel="stable", sequence=self._sequence, digest=digest)
        self.appliance.updates.hint(hint)
        passed = ["fetch"]

        def has_come() -> bool:
            block = self.appliance.state().update
            assert block is not None
            if block.stage in STAGES and block.stage != passed[-1]:
                passed.append(block.stage)
            self._lamp.pause_s = 0.0 if block.stage in ("shadow", "trial") else PAUSE_S
            return block.sequence == self._sequence and block.stage == "idle" and block.candidate is None

        self._until(has_come, f"{candidate.name}: home")
        came = Came(candidate.name, candidate.is_good, passed[-1])
        if self.appliance.models.active() == digest:
            came.stage = ""
            self._take_back()
        else:
            came.code, came.why = self._refusal(digest)
        self._lamp.light = 1.0
        came.seconds, came.frames, came.parts = round(self.ear.seconds, 1), self.ear.frames, self.ear.parts
        came.took_s = round(time.monotonic() - began_s, 1)
        return came

    def _run(self) -> None:
        try:
            self.appliance.run(self._stop)
        except BaseException as err:  # noqa: BLE001 - whoever waits raises it
            self._error = err

    def _config(self, url: str) -> Config:
        (self._folder / "root.json").write_bytes(self._repository.first_root)
        plain = config_from_options(
            camera="sim", state=self._folder / "state", provider="cpu", threads=1, recipe=Path("metal-plate")
        )
        model = plain.model.model_copy(update={"dir": str(find_model(MODEL)), "precision": self._precision})
        camera = plain.camera[0].model_copy(update={"slots": 8})
        update = UpdateConfig(
            product=PRODUCT, root=self._folder / "root.json", url=url, poll_s=86_400, keep_free_bytes=0,
            shadow_share=self._options.share, probe_s=self._options.probe_s,
        )  # fmt: skip
        return plain.model_copy(update={"model": model, "camera": (camera,), "update": update})

    def _take_back(self) -> None:
        folder = self.config.state_dir / "update"
        answer = wait_for(folder, ask(folder, Request(kind="rollback", by="campaign", why="the next one's turn")), 60)
        assert answer is not None and answer.ok, answer
        self._until(lambda: self.appliance.models.active() == self.factory, "the factory's model judges again")

    def _refusal(self, digest: str) -> tuple[str, str]:
        state, _ = look(self.config.state_dir / "update")
        assert state is not None and state.last_refusal is not None
        return state.last_refusal.code, state.last_refusal.why

    def _forget_old_releases(self) -> None:
        """Their bytes are hundreds of megabytes; a repository may drop what nobody is to run."""
        targets = self._repository.signed(f"product-{PRODUCT}").targets
        for name in [name for name in targets if "/channels/" not in name]:
            del targets[name]
        for path in [path for path in self._repository.files if path.startswith("targets/")]:
            del self._repository.files[path]

    def _until(self, true: Callable[[], bool], what: str) -> None:
        until_s = time.monotonic() + WAIT_S
        while not true():
            if self._error is not None:
                raise LineDown(f"{what}: {self._error}") from self._error
            if time.monotonic() > until_s:
                raise LineDown(f"not in {WAIT_S:g} s: {what}")
            time.sleep(0.005)


class LineDown(Exception):
    """The appliance ended while a candidate was tried."""
