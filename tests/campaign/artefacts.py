"""Every byte of a release bent, one at a time: what a device makes of it.

    python -m tests.campaign.artefacts                       # every byte of metadata, rollout, manifest, picture
    python -m tests.campaign.artefacts --step 1 --model-step 1      # and every byte of the model: hours
    python -m tests.campaign.artefacts --step 211 --model-step 40000         # the short form

A device that has taken release 1 is offered release 2, with new online keys. At each place of each file that is new one
bit is flipped, or the file ends there, or a byte comes in. A case fails if the look ends in anything but a code, if it
is taken though what lies there then is not what was signed, or if something of it lies under a final name. A bend that
changes no meaning (the case of a hexadecimal digit in a signature) may be taken: `harmless`.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from edge_inspect.errors import BadModel, SourceGone, Untrusted
from tests.edge.update.boxes import fetch, on_disk, settings_for
from tests.edge.update.packages import package
from tests.sim.tuf_repository import ROLE, TufRepository, TufServer

ALL_ROLES = ("root", "targets", "snapshot", "timestamp", ROLE)


class Device:
    """models_dir after release 1, again and again."""

    def __init__(self, folder: Path, server: TufServer) -> None:
        self.models = folder / "models"
        self._kept = folder / "kept"
        self._settings = settings_for(self.models, server.repository, server.url)
        fetch(self._settings)
        shutil.copytree(self.models, self._kept, copy_function=shutil.copy)
        self.before = set(on_disk(self.models))

    def anew(self) -> None:
        shutil.rmtree(self.models)
        shutil.copytree(self._kept, self.models, copy_function=shutil.copy)

    def look(self) -> str:
        """The code; empty when the release was taken."""
        try:
            fetch(self._settings)
        except (Untrusted, BadModel, SourceGone) as err:
            return err.code
        return ""

    def whole(self, digest: str) -> dict[str, bytes]:
        """The package of this digest; empty when there is none."""
        return on_disk(self.models / "packages" / digest.removeprefix("sha256:"))

    def wrong(self, digest: str) -> str:
        """What lies there after a refusal though it must not."""
        new = set(on_disk(self.models)) - self.before
        final = [name for name in new if name.startswith(("packages/", "offers/"))]
        return ", ".join(final) or ("a package" if self.whole(digest) else "")


def bends(content: bytes, step: int, rng: random.Random) -> Iterator[bytes]:
    for at in range(0, len(content), step):
        kind = rng.choice(("flip", "flip", "flip", "cut", "insert"))
        if kind == "flip":
            yield content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
        elif kind == "cut":
            yield content[:at]
        else:
            yield content[:at] + rng.randbytes(1) + content[at:]


def run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    rng = random.Random(options.seed)
    repository = TufRepository()
    repository.release(package(folder / "first"), 1)
    codes: Counter[str] = Counter()
    failures: list[str] = []
    harmless = 0
    with TufServer(repository) as server:
        device = Device(folder, server)
        old = dict(repository.files)
        for role in ("timestamp", "snapshot"):
            repository.rotate(role)
        repository.publish("root", "targets")
        second = package(folder / "second", version="1.1.0", golden=[])
        digest = repository.release(second, 2).model.digest
        new = {path: content for path, content in repository.files.items() if old.get(path) != content}
        asked = used(server, device)
        files = {path: content for path, content in new.items() if path in asked}
        for path, content in files.items():
            for bent in bends(content, options.model_step if path.endswith(".onnx") else options.step, rng):
                device.anew()
                repository.files[path] = bent
                code = device.look()
                codes[code or "harmless"] += 1
                whole = device.whole(digest)
                if not code and len(whole) == 2 and whole.items() <= on_disk(second).items():
                    harmless += 1
                elif not code or device.wrong(digest):
                    failures.append(f"{path}: {code or 'taken'}: {device.wrong(digest)}")
            repository.files[path] = content
            print(f"{path.rpartition('/')[2]}: {sum(codes.values())} bends, {len(failures)} failures", file=sys.stderr)
        device.anew()
        assert device.look() == "", "the release itself is good"
    n = sum(codes.values())
    return {"n": n, "files": len(files), "codes": dict(codes.most_common()), "harmless": harmless,
            "failures": len(failures), "first": failures[:5], "bound": round(3 / n, 6)}  # fmt: skip


def used(server: TufServer, device: Device) -> set[str]:
    """What a device asks for when all is well."""
    server.requests.clear()
    assert device.look() == ""
    return {request.path for request in server.requests}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--model-step", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="artefacts-", dir=shm if shm.is_dir() else None) as folder:
        result = run(Path(folder), options)
    print(json.dumps(result))
    sys.exit(1 if result["failures"] else 0)


if __name__ == "__main__":
    main()
