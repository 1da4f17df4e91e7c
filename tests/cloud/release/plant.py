"""A plant that publishes, and python-tuf's own client as the device that reads: the oracle of these tests.

plant = Plant(tmp_path)
plant.release("1.0.0")                      # signed and published
Reader(plant.root, plant.url, tmp_path / "device").rollout().model.version
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import Signer
from tuf.ngclient import FetcherInterface, Updater

from cloud_inspect.errors import BadKey, BadRelease
from cloud_inspect.release.changes import Change, Signed
from cloud_inspect.release.founding import Secrets, found
from cloud_inspect.release.keys import open_signers
from cloud_inspect.release.packages import read_package
from cloud_inspect.release.publish import Published, publish
from cloud_inspect.release.repository import State, load, utc_now
from cloud_inspect.release.rollouts import make_wish
from cloud_inspect.release.store import open_store
from cloud_inspect.release.verify import StoreFetcher
from edge_wire.release import Rollout, channel_target, file_target
from tests.sim.tiny_model import write_tiny_package

PRODUCT = "metal-plate"
ROLE = f"product-{PRODUCT}"


@functools.cache
def _tiny(name: str, version: str) -> Path:
    """Made once a session: exporting an ONNX file takes longer than releasing it."""
    return write_tiny_package(Path(tempfile.mkdtemp(prefix="tiny-")) / version, name=name, version=version)


def code_of(raised: pytest.ExceptionInfo[BadRelease] | pytest.ExceptionInfo[BadKey]) -> str:
    """Of a refusal, which is one line that ends with it."""
    assert str(raised.value).endswith(f"[{raised.value.code}]")
    assert "\n" not in str(raised.value)
    return raised.value.code


class Plant:
    def __init__(
        self, tmp_path: Path, url: str | None = None, *, now: datetime | None = None,
        products: Sequence[str] = (PRODUCT,), secrets: Secrets | None = None, **founding: Any,
    ) -> None:  # fmt: skip
        self.folder = tmp_path
        self.url = url or str(tmp_path / "repository")
        self.keys = tmp_path / "keys"
        self.now = now or utc_now()
        self.store = open_store(self.url)
        self.staged = open_store(f"{self.url}/staged")
        self.root = found(
            self.store, self.keys, products, self.now, secrets=secrets or Secrets(), **founding
        ).root_file.read_bytes()

    def signers(self, *names: str) -> list[Signer]:
        """By file name without `.pem`; `online` is all of them."""
        return open_signers([str(self.keys / (name if name == "online" else f"{name}.pem")) for name in names])

    def change(self) -> Change:
        return Change(self.store, self.staged, self.now)

    def package(self, version: str, name: str = "tiny") -> Path:
        """A copy that a test may spoil."""
        copy = self.folder / "packages" / name / version
        shutil.copytree(_tiny(name, version), copy, dirs_exist_ok=True)
        return copy

    def sign(
        self, version: str, channel: str = "stable", *, key: Sequence[str] = (f"{ROLE}-1",), product: str = PRODUCT,
        package: Path | None = None, **wish: Any,
    ) -> Signed:  # fmt: skip
        content = read_package(package or self.package(version))
        wanted = make_wish(channel, "anna", **wish)
        return self.change().release(product, wanted, content, self.signers(*key))

    def publish(self, *keys: str, **options: Any) -> Published:
        return publish(self.store, self.staged, self.signers(*(keys or ("online",))), self.now, **options)

    def release(self, version: str, channel: str = "stable", **options: Any) -> Published:
        self.sign(version, channel, **options)
        return self.publish()

    def state(self) -> State:
        return load(self.store)

    def later(self, **ago: float) -> None:
        self.now += timedelta(**ago)

    def reader(self, name: str = "device") -> Reader:
        return Reader(self.root, "store://", self.folder / name, StoreFetcher(self.store))


class Reader:
    """python-tuf's client with the root it was given; every call refreshes, as a device does at each poll."""

    def __init__(self, root: bytes, url: str, folder: Path, fetcher: FetcherInterface | None = None) -> None:
        self.folder, self._root, self._url, self._fetcher = folder, root, url.rstrip("/"), fetcher

    def updater(self) -> Updater:
        base = self._url + "/" if not self._url.endswith("/") else self._url
        base = "store://" if self._url.startswith("store:") else base
        for name in ("metadata", "targets"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        updater = Updater(
            str(self.folder / "metadata"), f"{base}metadata/", str(self.folder / "targets"), f"{base}targets/",
            self._fetcher, bootstrap=self._root,
        )  # fmt: skip
        updater.refresh()
        return updater

    def rollout(self, product: str = PRODUCT, channel: str = "stable", updater: Updater | None = None) -> Rollout:
        client = updater or self.updater()
        info = client.get_targetinfo(channel_target(product, channel))
        assert info is not None, f"nothing is signed for {product}, channel {channel}"
        return Rollout.model_validate_json(Path(client.download_target(info)).read_bytes())

    def package(self, product: str = PRODUCT, channel: str = "stable") -> dict[str, bytes]:
        """The tiny package's files, downloaded and verified by python-tuf."""
        client = self.updater()
        model = self.rollout(product, channel, client).model
        files = {}
        for name in ("manifest.json", "model.onnx", "golden/spot.png"):
            info = client.get_targetinfo(file_target(product, model.name, model.version, name))
            assert info is not None, name
            files[name] = Path(client.download_target(info)).read_bytes()
        return files

    def version(self) -> str | None:
        """What the stable channel runs; None before the first rollout."""
        client = self.updater()
        info = client.get_targetinfo(channel_target(PRODUCT, "stable"))
        if info is None:
            return None
        return Rollout.model_validate_json(Path(client.download_target(info)).read_bytes()).model.version
