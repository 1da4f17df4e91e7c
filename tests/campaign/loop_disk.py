"""A disk whose power can be cut: an ext4 image on a loop device, copied while whoever writes to it stands still.

    disk = LoopDisk(root)
    with disk.worked_on(put_for_ever):          # a process of its own, on a fresh file system
        ledger = disk.cut(0.2, lambda: Ledger.read(path))
        with disk.after_cut() as folder:        # what a machine would find when it is switched on again
            ...

The process is stopped (SIGSTOP) and the file behind the loop device copied: what the kernel had not written to the
"disk" is lost; ext4 replays its journal when the copy is mounted. The disk does what it is told (one that lies about
flushing is not modelled), and it loses everything unsynced at once, in no other order. Needs root and loop devices.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tests.campaign import zygote

IMAGE_BYTES = 64 << 20
Seen = TypeVar("Seen")


def reason_not_to(*tools: str) -> str:
    """Why no power can be cut here; empty if it can. `tools`: that are needed besides."""
    if os.geteuid() != 0:
        return "mounting needs root"
    missing = [tool for tool in ("losetup", "mkfs.ext4", "mount", *tools) if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if subprocess.run(["losetup", "-f"], capture_output=True, check=False).returncode != 0:
        return "no loop devices"
    return ""


class LoopDisk:
    """Lies in `root`, which should be in memory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._image, self._copy = root / "disk.img", root / "copy.img"
        self._worker = 0

    @contextmanager
    def worked_on(
        self, work: Callable[[Path], None], prepare: Callable[[Path], object] = lambda folder: None
    ) -> Iterator[None]:
        """A fresh file system with what `prepare` puts there, synced; `work` then runs on it in a process, to the end
        of the block."""
        self._image.write_bytes(b"")
        os.truncate(self._image, IMAGE_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-b", "4096", str(self._image)], check=True, capture_output=True)
        with _mounted(self._image, self._root / "before") as folder:
            prepare(folder)
            subprocess.run(["sync", "-f", str(folder)], check=True)
            self._worker = zygote.start(lambda: work(folder))
            try:
                yield
            finally:
                os.kill(self._worker, signal.SIGKILL)
                os.waitpid(self._worker, 0)

    def cut(self, after_s: float, look: Callable[[], Seen]) -> Seen:
        """What `look` sees at the moment of the cut; then the work goes on."""
        time.sleep(after_s)
        os.kill(self._worker, signal.SIGSTOP)
        try:
            os.waitpid(self._worker, os.WUNTRACED)
            seen = look()
            subprocess.run(["cp", "--sparse=always", str(self._image), str(self._copy)], check=True)
        finally:
            os.kill(self._worker, signal.SIGCONT)
        return seen

    @contextmanager
    def after_cut(self) -> Iterator[Path]:
        """The disk as it was at the last cut."""
        with _mounted(self._copy, self._root / "after") as folder:
            yield folder


@contextmanager
def _mounted(image: Path, at: Path) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(at)], check=True, capture_output=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True, capture_output=True)
