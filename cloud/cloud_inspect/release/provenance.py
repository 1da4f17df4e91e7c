"""Where a model comes from: the training's record, the programs that made it and their revision.

provenance_of(Path("runs/plates/training.json")).training_digest
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from cloud_inspect.errors import BadPackage
from edge_wire.manifest import Provenance

TOOLS = (
    "onnx", "onnxruntime", "onnxslim", "ultralytics-opencv-headless", "ultralytics", "torch", "numpy", "edge-inspect",
)  # fmt: skip


def provenance_of(training: Path | None) -> Provenance:
    """Raises BadPackage for a record that is none."""
    run, digest = "", ""
    if training:
        try:
            content = training.read_bytes()
            json.loads(content)
        except OSError as err:
            raise BadPackage(f"{training}: cannot be read: {err.strerror}") from err
        except ValueError as err:
            raise BadPackage(f"{training}: is no record of a training: {err}") from err
        run, digest = training.resolve().parent.name, f"sha256:{hashlib.sha256(content).hexdigest()}"
    return Provenance(training_run=run, training_digest=digest, git_revision=_git_revision(), tools=_tools())


def _tools() -> dict[str, str]:
    found = {}
    for name in TOOLS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git_revision() -> str:
    """Of the checkout that this program runs from; empty for an installed one."""
    git = shutil.which("git")
    here = Path(__file__).resolve().parent
    if not git or not any((folder / ".git").exists() for folder in here.parents):
        return ""

    def ask(*words: str) -> str:
        done = subprocess.run([git, "-C", str(here), *words], capture_output=True, text=True, timeout=30, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = ask("rev-parse", "HEAD")
    return f"{head}-dirty" if head and ask("status", "--porcelain", "--untracked-files=no") else head
