"""A repository on S3: s3fs against moto, an S3 that lives in memory; skipped without s3fs and moto[server]."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud_inspect.release.prune import leftovers, sweep
from cloud_inspect.release.verify import verify
from tests.cloud.release.plant import PRODUCT, ROLE, Plant

pytest.importorskip("s3fs", reason="s3fs is not installed")
moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # of botocore, moto and werkzeug: none of ours


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import s3fs

    logging.getLogger("werkzeug").disabled = True
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("plant1")
        yield "s3://plant1/models"
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


def test_releases_are_published_read_and_pruned_on_s3(tmp_path: Path, bucket: str) -> None:
    plant = Plant(tmp_path, bucket)
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        plant.release(version)
    assert plant.reader().version() == "1.2.0" and len(plant.reader("other").package()) == 3
    plant.change().retire(PRODUCT, ["tiny/1.0.0"], plant.signers(f"{ROLE}-1"))
    plant.publish()
    assert sweep(plant.store, keep=1)
    assert leftovers(plant.store, plant.state(), keep=1) == []
    assert verify(plant.store, plant.root).troubles == ()
    assert plant.reader("last").version() == "1.2.0"
