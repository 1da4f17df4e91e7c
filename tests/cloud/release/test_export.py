"""`release export`: what is on a stick works as a whole, says until when, and is enough to sign for its product."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloud_inspect.cli import app
from cloud_inspect.errors import BadRelease
from cloud_inspect.release.export import export
from cloud_inspect.release.publish import resign
from cloud_inspect.release.repository import utc_now
from cloud_inspect.release.store import Folder
from cloud_inspect.release.verify import StoreFetcher
from tests.cloud.release.plant import PRODUCT, ROLE, Plant, Reader, code_of


@pytest.fixture
def two(tmp_path: Path) -> Plant:
    """Metal plates and screws, both released."""
    plant = Plant(tmp_path, products=(PRODUCT, "screws"))
    plant.release("1.0.0")
    plant.release("1.0.0", product="screws", key=["product-screws-1"])
    (tmp_path / "stick").mkdir()
    return plant


def told(*words: object) -> str:
    result = CliRunner().invoke(app, ["release", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def box(plant: Plant) -> Reader:
    return Reader(plant.root, "store://", plant.folder / "box", StoreFetcher(Folder(plant.folder / "stick")))


def test_second_product_on_a_stick_leaves_the_first_one_whole_and_as_new(two: Plant) -> None:
    stick = two.folder / "stick"
    export(two.store, stick, PRODUCT)
    two.release("1.1.0")
    out = told("export", two.url, "--usb", stick, "--product", "screws")
    assert f"{PRODUCT}, channel stable: tiny 1.1.0; was on it already" in out
    assert box(two).version() == "1.1.0" and set(box(two).package()) == {
        "manifest.json", "model.onnx", "golden/spot.png",
    }  # fmt: skip
    assert box(two).rollout("screws").model.version == "1.0.0"


def test_second_channel_on_a_stick_leaves_the_first_one_whole(two: Plant) -> None:
    stick = two.folder / "stick"
    export(two.store, stick, PRODUCT, "stable")
    two.release("1.1.0")
    two.release("1.2.0", "canary")
    export(two.store, stick, PRODUCT, "canary")
    assert (box(two).version(), box(two).rollout(channel="canary").model.version) == ("1.1.0", "1.2.0")


def test_export_of_one_product_of_two_is_enough_to_sign_list_and_verify(two: Plant) -> None:
    stick = two.folder / "stick"
    export(two.store, stick, PRODUCT)
    words = ("--released", "tiny/1.0.0", "--channel", "canary", "--product", PRODUCT, "--key", two.keys)
    told("sign", stick, *words, "--staged", two.folder / "carried")
    assert "screws: nothing of it is in this copy" in told("list", stick)
    out = told("verify", stick, "--root", two.keys / "root.json")
    assert "screws: nothing of it is in this copy" in out and "4 files" in out and "0 troubles" in out
    with pytest.raises(BadRelease, match="nothing of screws is here"):
        told("publish", stick, "--staged", two.folder / "carried", "--online-key", two.keys / "online")
    told("publish", two.url, "--staged", two.folder / "carried", "--online-key", two.keys / "online")
    assert two.reader().rollout(channel="canary").model.version == "1.0.0"


def test_lost_metadata_of_a_product_whose_files_are_here_is_no_copy_of_others(two: Plant) -> None:
    for file in (Path(two.url) / "metadata").glob("*.product-screws.json"):
        file.unlink()
    with pytest.raises(BadRelease) as raised:
        two.state()
    assert code_of(raised) == "metadata-missing"


def test_stick_of_another_repository_and_the_repository_itself_are_refused(two: Plant) -> None:
    other = Plant(two.folder / "other")
    other.release("1.0.0")
    export(other.store, two.folder / "stick", PRODUCT)
    codes = []
    for place in (two.folder / "stick", Path(two.url), Path(two.url) / "metadata"):
        with pytest.raises(BadRelease) as raised:
            export(two.store, place, PRODUCT)
        codes.append(code_of(raised))
    assert codes == ["folder-not-empty", "export-into-itself", "export-into-itself"]


def test_export_says_what_has_expired_or_will_soon(tmp_path: Path) -> None:
    plant = Plant(tmp_path, now=utc_now() - timedelta(days=170))
    plant.release("1.0.0")
    (tmp_path / "stick").mkdir()
    words = ("export", plant.url, "--usb", tmp_path / "stick", "--product", PRODUCT)
    out = told(*words)
    assert "warning: timestamp: expired " in out and "no device takes it: expired " in out
    resign(plant.store, plant.signers("online"), utc_now())
    out = told(*words)
    assert f"warning: {ROLE}: expires " in out and "devices take it until " in out


def test_changed_file_is_named_whole_with_what_is_wrong_about_it(two: Plant) -> None:
    victim = next((Path(two.url) / "targets" / PRODUCT).rglob("*.model.onnx"))
    content = victim.read_bytes()
    for spoiled, words in ((b"x" + content[1:], "as many, but others"), (content[:-1], f"not {len(content)}")):
        victim.write_bytes(spoiled)
        with pytest.raises(BadRelease, match=words) as raised:
            export(two.store, two.folder / "stick", PRODUCT)
        assert str(raised.value).startswith(f"{victim}: not the bytes that were signed: ")
        assert code_of(raised) == "bytes-changed"
