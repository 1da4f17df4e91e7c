"""The whole appliance as a process on cameras of the V4L2 shim, and what is heard of it: verdicts, losses, returns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.line.conftest import RECIPE
from tests.sim.v4l2 import ShimCamera, draw_number, environment, yuyv

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT, FPS = 320, 192, 10.0
START_S, PATIENCE_S = 120.0, 60.0


@dataclass
class Camera:
    """One camera of the shim and what was heard of it."""

    shim: ShimCamera
    number: int
    lost: list[float] = field(default_factory=list)
    up: list[float] = field(default_factory=list)
    ok: list[float] = field(default_factory=list)
    _read_to: int = 0

    @property
    def name(self) -> str:
        return f"cam{self.number}"

    def happened(self, word: str) -> float | None:
        """When the shim did it (its log's own time), looking only at what is new."""
        if not self.shim.log.exists():
            return None
        with self.shim.log.open("rb") as log:
            log.seek(self._read_to)
            new = log.read()
        whole = new.rpartition(b"\n")[0]
        for line in whole.splitlines():
            words = line.decode().split()
            if words and words[0] == word and len(words) == 2:
                self._read_to += len(whole) + 1
                return int(words[1]) / 1e9
        return None


class Line:
    """The appliance as a process, its stderr and stdout read as they come."""

    def __init__(self, folder: Path, model: Path, cameras: int) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        pictures = [yuyv(_picture(number)) for number in range(60)]
        self.cameras = [
            Camera(ShimCamera(folder, node=number, fps=FPS).play("YUYV", WIDTH, HEIGHT, pictures), number)
            for number in range(cameras)
        ]
        (folder / "spots.toml").write_text(RECIPE)
        self._words = [str(folder / "state"), str(model), str(folder / "spots.toml"), str(cameras)]
        self.log: list[str] = []
        self.process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []

    def start(self) -> None:
        env = environment([camera.shim for camera in self.cameras])
        env |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'edge'}", "MALLOC_ARENA_MAX": "2"}  # as the unit has it
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.campaign.camera_line", *self._words],
            env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._readers = [
            threading.Thread(target=self._hear_verdicts, args=(self.process,)),
            threading.Thread(target=self._hear_log, args=(self.process,)),
        ]
        for reader in self._readers:
            reader.start()

    def end(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait(timeout=30)
        for reader in self._readers:
            reader.join(timeout=30)

    def wait(self, what: str, there: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
        """What `there` returns once it is something. Raises AssertionError with the log's end."""
        until = time.monotonic() + within_s
        while not (found := there()):
            assert self.process is not None
            if self.process.poll() is not None or time.monotonic() > until:
                ended = self.process.poll()
                raise AssertionError(
                    f"{what}: not within {within_s:g} s (process {ended}):\n" + "".join(self.log[-40:])
                )
            time.sleep(0.01)
        return found

    def wait_for_all(self, since: float) -> None:
        for camera in self.cameras:
            self.wait(f"{camera.name} judges", lambda camera=camera: newest_after(camera.ok, since), START_S)

    def footprint(self) -> dict[str, int]:
        """rss_bytes, fds and threads of the process, from /proc."""
        assert self.process is not None
        proc = Path(f"/proc/{self.process.pid}")
        pages = int((proc / "statm").read_text().split()[1])
        return {
            "rss_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
            "fds": len(list((proc / "fd").iterdir())),
            "threads": len(list((proc / "task").iterdir())),
        }

    def _hear_verdicts(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                name, kind = line.split()
                if kind == "OK":
                    self.cameras[int(name.removeprefix("cam"))].ok[:] = [time.monotonic()]  # the newest is enough

    def _hear_log(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                at = time.monotonic()
                self.log.append(line)
                for event in ("lost", "up"):
                    if f'"event": "camera.{event}"' in line:
                        camera = self.cameras[int(json.loads(line)["camera"].removeprefix("cam"))]
                        getattr(camera, event).append(at)


def newest_after(moments: list[float], since: float) -> float | None:
    return next((at for at in reversed(list(moments)) if at > since), None)


def _picture(number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    grain = np.random.default_rng(number).integers(120, 136, (HEIGHT, WIDTH, 1), dtype=np.uint8)
    picture = np.repeat(grain, 3, axis=2)
    draw_number(picture, number)
    return picture
