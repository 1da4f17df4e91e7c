"""`cloud-inspect release ...` as a person runs it: what it prints, its exit status, its one line when it says no."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cloud_inspect.cli import app
from cloud_inspect.errors import CloudError
from cloud_inspect.release.export import export
from cloud_inspect.release.store import Folder, StoreGone
from edge_wire.topics import Topics
from edge_wire.updates import Desired
from tests.cloud.release.plant import PRODUCT, ROLE, Plant, Reader
from tests.cloud.release.small_disk import fill
from tests.mosquitto import Mosquitto

COMMANDS = (
    "init", "add-product", "rotate-keys", "sign", "publish", "list", "revoke", "verify", "serve", "resign", "export",
    "announce", "build", "prune",
)  # fmt: skip


def run(*command: str | Path) -> dict[str, Any]:
    """The JSON object that the command prints last."""
    result = CliRunner().invoke(app, ["release", *map(str, command), "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found | {"exit": result.exit_code}


def refused(*command: str | Path) -> str:
    """The code that ends the one line."""
    with pytest.raises(CloudError) as raised:
        run(*command)
    assert "\n" not in str(raised.value)
    return re.search(r"\[([a-z0-9-]+)\]$", str(raised.value))[1]  # type: ignore[index]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = CliRunner().invoke(app, ["release", command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"Example: cloud-inspect release {command}" in result.stdout


def test_a_release_from_the_first_key_to_the_stick(place: Path) -> None:
    plant = Plant.__new__(Plant)
    plant.folder = place
    (place / "pw").write_text("secret\n")
    made = run("init", "repo", "--keys", "keys", "--product", PRODUCT, "--threshold", "root=2/3",
               "--threshold", f"{ROLE}=2", "--passphrase-file", "pw")  # fmt: skip
    assert len(made["keys"]["root"]) == 3 and Path(made["root"]).is_file()
    sign = ("sign", "repo", "--product", PRODUCT, "--passphrase-file", "pw", "--key")
    first = run(*sign, f"keys/{ROLE}-1.pem", plant.package("1.0.0"), "--reason", "first", "--lines", "press-*",
                "--shadow-parts", "50", "--most-new-ng", "0.01", "--trial-parts", "70")  # fmt: skip
    assert first["missing"] and first["rollouts"][0]["shadow"]["parts"] == 50
    assert refused("publish", "repo", "--online-key", "keys/online") == "threshold"
    assert run(*sign, f"keys/{ROLE}-2.pem")["missing"] == []
    assert run("publish", "repo", "--online-key", "keys/online")["roles"][ROLE] == 2
    row = run("list", "repo")["rollouts"][0]
    assert (row["sequence"], row["model"]["version"], row["audience"]["lines"]) == (1, "1.0.0", ["press-*"])
    assert run("verify", "repo", "--root", made["root"])["ok"] is True
    (place / "usb").mkdir()
    assert run("export", "repo", "--usb", "usb", "--product", PRODUCT)["channels"] == {"stable": "tiny 1.0.0"}
    assert run("verify", "usb", "--root", made["root"])["files"] == 4
    both = ("--key", f"keys/{ROLE}-1.pem", "--key", f"keys/{ROLE}-2.pem", "--passphrase-file", "pw")
    run("revoke", "repo", "--product", PRODUCT, "--released", "tiny/1.0.0", "--reason", "misses dents", *both)
    run("publish", "repo", "--online-key", "keys/online")
    assert run("list", "repo")["rollouts"][0]["revoked_now"] is True
    assert run("resign", "repo", "--online-key", "keys/online", "--force")["roles"] == {"snapshot": 4, "timestamp": 4}
    roots = ("--key", "keys/root-1.pem", "--key", "keys/root-3.pem", "--passphrase-file", "pw")
    run("rotate-keys", "repo", "--role", "timestamp", "--new", "keys/online/timestamp-2.pem", "--remove", "timestamp-1",
        *roots)  # fmt: skip
    assert run("publish", "repo", "--online-key", "keys/online")["roles"]["root"] == 2
    run("add-product", "repo", "--product", "screws", "--keys", "keys", "--key", "keys/targets-1.pem",
        "--passphrase-file", "pw")  # fmt: skip
    run("publish", "repo", "--online-key", "keys/online")
    assert run("list", "repo")["products"] == [PRODUCT, "screws"]
    run("sign", "repo", "--role", "root", "--renew", *roots)
    assert "discarded" in run("sign", "repo", "--discard")
    assert run("verify", "repo", "--root", made["root"])["ok"] is True


def test_what_is_wrong_is_one_line_with_a_code(place: Path) -> None:
    Plant(place)
    (place / "pw").write_text("wrong\n")
    url = place / "repository"
    assert refused("list", "nowhere") == "not-a-repository"
    assert refused("sign", "nowhere", "--product", PRODUCT, "--key", "x") == "not-a-repository"
    assert not (place / "nowhere").exists()
    assert refused("list", "nosuchscheme://x") == "store-unknown"
    assert refused("publish", url, "--online-key", "keys/online") == "nothing-staged"
    assert refused("publish", url, "--online-key", "none.pem") == "key-missing"
    assert refused("export", url, "--usb", "none", "--product", PRODUCT) == "not-a-folder"
    assert refused("export", url, "--usb", place, "--product", "other") == "unknown-product"
    assert refused("export", url, "--usb", place, "--product", PRODUCT) == "unknown-channel"
    assert refused("sign", url, "none", "--product", PRODUCT, "--key", f"keys/{ROLE}-1.pem") == "package-missing"
    assert refused("init", "other", "--keys", "k", "--product", "No Name") == "product-name"
    assert refused("init", "other", "--keys", "k", "--product", "x", "--threshold", "x") == "threshold-unreadable"
    assert refused("init", "other", "--keys", "k", "--product", "x", "--threshold", "3/2") == "threshold-impossible"
    assert refused("rotate-keys", url, "--role", "nobody", "--key", "keys/root-1.pem") == "unknown-role"
    assert refused("verify", url, "--root", "none") == "root-unreadable"
    assert refused("serve", place / "none") == "not-a-repository"


def test_root_beside_the_keys_is_what_the_repository_must_prove_itself_by(place: Path) -> None:
    plant, other = Plant(place / "ours"), Plant(place / "other")
    targets, online = plant.keys / "targets-1.pem", plant.keys / "online"
    assert refused("sign", other.url, "--role", "targets", "--renew", "--key", targets) == "metadata-refused"
    assert refused("publish", other.url, "--online-key", online) == "metadata-refused"
    assert refused("resign", other.url, "--online-key", online) == "metadata-refused"
    assert run("sign", plant.url, "--role", "targets", "--renew", "--key", targets)["missing"] == []


def test_refused_threshold_leaves_no_key_behind(place: Path) -> None:
    assert refused("init", "repo", "--keys", "k", "--product", "x", "--threshold", "3/2") == "threshold-impossible"
    assert not (place / "k").exists() or not list((place / "k").rglob("*.pem"))


def test_verify_of_harmed_files_prints_them_and_exits_1(place: Path) -> None:
    plant = Plant(place)
    plant.release("1.0.0")
    next(Path(plant.url).rglob("*.model.onnx")).unlink()
    found = run("verify", plant.url)
    assert (found["exit"], found["ok"], len(found["troubles"])) == (1, False, 1)


def test_people_get_a_table(place: Path) -> None:
    plant = Plant(place)
    plant.release("1.0.0", audience={"sites": ("north",)})
    result = CliRunner().invoke(app, ["release", "list", plant.url])
    assert "metal-plate  stable   1" in result.stdout and "for sites north; by anna" in result.stdout


def test_stick_holds_one_product_and_only_what_its_channels_run(place: Path) -> None:
    plant = Plant(place, products=(PRODUCT, "screws"))
    for version in ("1.0.0", "1.1.0"):
        plant.release(version)
    plant.sign("1.0.0", product="screws", key=["product-screws-1"])
    plant.publish()
    stick = place / "stick"
    stick.mkdir()
    export(plant.store, stick, PRODUCT)
    names = {path.name.partition(".")[2] for path in (stick / "targets").rglob("*") if path.is_file()}
    assert names == {"stable.json", "manifest.json", "model.onnx", "spot.png"}
    assert not list(stick.rglob("*screws*")) and not list(stick.rglob("1.0.0"))
    from cloud_inspect.release.verify import StoreFetcher

    device = Reader(plant.root, "store://", place / "device", StoreFetcher(Folder(stick)))
    assert device.version() == "1.1.0"
    assert set(device.package()) == {"manifest.json", "model.onnx", "golden/spot.png"}


def test_stick_without_room_is_refused_before_anything_is_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    plant = Plant(place)
    plant.release("1.0.0")
    stick = place / "stick"
    stick.mkdir()
    usage = shutil.disk_usage(stick)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StoreGone, match="1000 bytes free") as raised:
        export(plant.store, stick, PRODUCT)
    assert raised.value.code == "disk-full"
    assert list(stick.iterdir()) == []


def test_devices_that_a_rollout_is_for_find_a_retained_hint(place: Path, mosquitto: Mosquitto) -> None:
    plant = Plant(place)
    plant.release("1.0.0", audience={"lines": ("press-*",)})
    told = run("announce", plant.url, "--product", PRODUCT, "--mqtt", mosquitto.url, "--device", "p/press-4/edge-1",
               "--device", "p/oven/edge-2")  # fmt: skip
    assert told["told"] == ["p/press-4/edge-1"] and told["not_concerned"] == ["p/oven/edge-2"]
    host, port = mosquitto.url.removeprefix("mqtt://").split(":")
    command = [
        "mosquitto_sub",
        "-h",
        host,
        "-p",
        port,
        "-t",
        "inspect/v1/+/+/+/desired",
        "-C",
        "1",
        "-W",
        "30",
        "-F",
        "%r %t %p",
    ]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    retained, topic, payload = found.strip().split(" ", 2)
    hint = Desired.from_bytes(payload.encode())
    rollout = plant.reader().rollout()
    assert (retained, topic) == ("1", Topics("p", "press-4", "edge-1").desired)
    assert (hint.device, hint.sequence, hint.digest) == ("edge-1", 1, rollout.model.digest)
    assert (
        refused("announce", plant.url, "--product", PRODUCT, "--mqtt", mosquitto.url, "--device", "a/b")
        == "device-name"
    )


def test_server_serves_signs_again_and_ends_on_sigterm(place: Path) -> None:
    from datetime import timedelta

    from cloud_inspect.release.repository import utc_now

    plant = Plant(place, now=utc_now() - timedelta(days=3))
    plant.release("1.0.0")
    command = [sys.executable, "-m", "cloud_inspect", "release", "serve", plant.url, "--port", "0", "--resign",
               "--online-key", str(plant.keys / "online"), "--every", "1"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None and server.stderr is not None
            url = server.stdout.readline().split()[-1]
            while "signed again" not in server.stderr.readline():
                assert server.poll() is None
            assert Reader(plant.root, url, place / "device").version() == "1.0.0"
            with urllib.request.urlopen(f"{url}/metadata/timestamp.json", timeout=30) as answer:
                assert answer.status == 200
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0


def test_server_on_a_full_disk_serves_on_and_signs_again_when_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    from datetime import timedelta

    from cloud_inspect.release.repository import utc_now

    plant = Plant(tmp_path, str(small_disk / "repository"), now=utc_now() - timedelta(days=3))
    plant.release("1.0.0")
    (small_disk / "repository/.lock").unlink()
    filler = fill(small_disk)
    command = [sys.executable, "-m", "cloud_inspect", "release", "serve", plant.url, "--port", "0", "--resign",
               "--online-key", str(plant.keys / "online"), "--every", "1"]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None and server.stderr is not None
            url = server.stdout.readline().split()[-1]
            assert read_until(server, "cannot sign").count("[disk-full]") == 1
            with urllib.request.urlopen(f"{url}/metadata/timestamp.json", timeout=30) as answer:
                assert answer.status == 200
            filler.unlink()
            read_until(server, "signed again")
            assert Reader(plant.root, url, tmp_path / "device").version() == "1.0.0"
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0


def read_until(server: subprocess.Popen[str], words: str) -> str:
    """The first line on stderr that has them."""
    assert server.stderr is not None
    for line in server.stderr:
        if words in line:
            return line
    raise AssertionError(f"ended without {words!r}")


def test_server_whose_signer_died_ends_with_an_error(place: Path) -> None:
    """Two days later all devices would say that the metadata has expired, and nobody would know why."""
    plant = Plant(place)
    script = """
import cloud_inspect.release.publish as publish
def dies(*_):
    raise RuntimeError("not foreseen")
publish.keep_signed = dies
from cloud_inspect.cli import main
main()
"""
    command = [sys.executable, "-c", script, "release", "serve", plant.url, "--port", "0", "--resign", "--online-key",
               str(plant.keys / "online")]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 1
    assert "RuntimeError: not foreseen" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("cloud-inspect: ")
    assert ended.stderr.splitlines()[-1].endswith("[signing-died]")


def one_model_file(plant: Plant) -> Path:
    return next(Path(plant.url, "targets").rglob("*.model.onnx"))


def test_verify_looks_on_after_a_file_that_cannot_be_read(place: Path) -> None:
    """/proc/self/mem opens and answers EIO to a read at its beginning, as a bad sector does."""
    plant = Plant(place)
    plant.release("1.0.0")
    plant.release("1.1.0")
    broken = one_model_file(plant)
    broken.unlink()
    broken.symlink_to("/proc/self/mem")
    next(one for one in Path(plant.url).rglob("*.spot.png") if broken.parent not in one.parents).unlink()
    found = run("verify", plant.url)
    assert (found["exit"], len(found["troubles"]), found["files"]) == (1, 2, 5)
    assert any(str(broken) in one and "Input/output error" in one for one in found["troubles"])
    assert any("[target-missing]" in one for one in found["troubles"])


def test_verify_tells_metadata_that_cannot_be_read_in_one_line(place: Path) -> None:
    plant = Plant(place)
    plant.release("1.0.0")
    timestamp = Path(plant.url) / "metadata/timestamp.json"
    timestamp.unlink()
    timestamp.symlink_to("/proc/self/mem")
    assert refused("verify", plant.url) == "store-gone"


def test_export_of_a_file_that_is_gone_or_cannot_be_read_is_one_line(place: Path) -> None:
    plant = Plant(place)
    plant.release("1.0.0")
    (place / "stick").mkdir()
    victim = one_model_file(plant)
    victim.unlink()
    assert refused("export", plant.url, "--usb", "stick", "--product", PRODUCT) == "target-missing"
    victim.symlink_to("/proc/self/mem")
    assert refused("export", plant.url, "--usb", "stick", "--product", PRODUCT) == "store-gone"
    assert not list((place / "stick").rglob("timestamp.json"))


def test_stick_that_cannot_be_read_back_is_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant = Plant(place)
    plant.release("1.0.0")
    (place / "stick").mkdir()

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fadvise", broken)
        assert refused("export", plant.url, "--usb", "stick", "--product", PRODUCT) == "store-gone"
    assert run("export", plant.url, "--usb", "stick", "--product", PRODUCT)["files"] == 4
