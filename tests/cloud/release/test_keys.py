"""Signing keys: what lies on the disk, what opens them, and what a wrong one is told. PKCS#11 against SoftHSM."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloud_inspect.cli import app
from cloud_inspect.errors import BadKey, StoreGone
from cloud_inspect.release.founding import Secrets, parse_thresholds
from cloud_inspect.release.keys import make_key, open_signer, open_signers, read_passphrase, read_public
from cloud_inspect.release.tokens import MODULE_VARIABLE, parse
from tests.cloud.release.plant import Plant
from tests.cloud.release.small_disk import fill

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")


def code_of(reference: str, passphrase: bytes | None = None) -> str:
    with pytest.raises(BadKey) as raised:
        open_signer(reference, passphrase)
    assert "\n" not in str(raised.value) and str(raised.value).endswith(f"[{raised.value.code}]")
    return raised.value.code


def test_private_key_is_ours_alone_and_encrypted(tmp_path: Path) -> None:
    made = make_key(tmp_path / "keys/root-1.pem", b"secret")
    file = tmp_path / "keys/root-1.pem"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert b"ENCRYPTED" in file.read_bytes()
    assert open_signer(str(file), b"secret").public_key.keyid == made.keyid
    assert read_public(str(file.with_suffix(".pub"))).keyid == made.keyid


def test_key_is_never_written_over(tmp_path: Path) -> None:
    make_key(tmp_path / "a.pem")
    before = (tmp_path / "a.pem").read_bytes()
    with pytest.raises(BadKey) as raised:
        make_key(tmp_path / "a.pem")
    assert raised.value.code == "key-exists"
    assert (tmp_path / "a.pem").read_bytes() == before


def test_key_is_durable_with_its_folders_before_anybody_hears_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut must not take the key whose public half is in a signed root already."""
    synced: list[str] = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    make_key(tmp_path / "new/keys/a.pem")
    assert synced[-1] == f"{tmp_path}/new/keys"
    assert {f"{tmp_path}", f"{tmp_path}/new", f"{tmp_path}/new/keys/a.pem", f"{tmp_path}/new/keys/a.pub"} <= {*synced}


@pytest.mark.parametrize("left", ["file", "dangling link"])
def test_leftover_public_half_is_found_before_a_private_key_is_made(tmp_path: Path, left: str) -> None:
    if left == "file":
        (tmp_path / "a.pub").write_text("of another key")
    else:
        (tmp_path / "a.pub").symlink_to("nowhere")
    with pytest.raises(BadKey, match=r"a\.pub: is there already") as raised:
        make_key(tmp_path / "a.pem")
    assert raised.value.code == "key-exists"
    assert not (tmp_path / "a.pem").exists()


def test_full_disk_leaves_no_half_of_a_key(small_disk: Path) -> None:
    (small_disk / "keys").mkdir()
    fill(small_disk)
    with pytest.raises(StoreGone) as raised:
        make_key(small_disk / "keys/a.pem")
    assert raised.value.code == "disk-full" and "\n" not in str(raised.value)
    assert list((small_disk / "keys").iterdir()) == []


def test_private_key_that_others_may_read_is_named_in_one_line(tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    (plant.keys / "online/timestamp-1.pem").chmod(0o640)
    (plant.keys / "online/snapshot-1.pem").chmod(0o604)
    given = ["release", "resign", plant.url, "--force", "--json", "--online-key", str(plant.keys / "online")]
    told = CliRunner().invoke(app, given)
    assert told.exit_code == 0 and json.loads(told.stdout)["roles"]
    lines = [line for line in told.stderr.splitlines() if "chmod 600" in line]
    assert len(lines) == 1 and "timestamp-1.pem" in lines[0] and "snapshot-1.pem" in lines[0]
    for file in (plant.keys / "online").glob("*.pem"):
        file.chmod(0o600)
    assert CliRunner().invoke(app, given).stderr == ""


def test_each_unusable_key_has_its_own_code(tmp_path: Path) -> None:
    make_key(tmp_path / "locked.pem", b"secret")
    (tmp_path / "text.pem").write_text("no key")
    (tmp_path / "empty.pem").write_bytes(b"")
    assert code_of(str(tmp_path / "none.pem")) == "key-missing"
    assert code_of(str(tmp_path / "text.pem")) == "key-unreadable"
    assert code_of(str(tmp_path / "empty.pem")) == "key-unreadable"
    assert code_of(str(tmp_path)) == "key-unreadable"
    assert code_of(str(tmp_path / "locked.pem")) == "passphrase-missing"
    assert code_of(str(tmp_path / "locked.pem"), b"wrong") == "wrong-passphrase"
    with pytest.raises(BadKey) as nothing:
        (tmp_path / "folder").mkdir()
        open_signers([str(tmp_path / "folder")])
    assert nothing.value.code == "key-missing"


def test_passphrase_is_the_files_first_line(tmp_path: Path) -> None:
    (tmp_path / "pw").write_bytes(b"secret\r\nsecond\n")
    assert read_passphrase(tmp_path / "pw") == b"secret"
    (tmp_path / "pw").write_bytes(b"\n")
    with pytest.raises(BadKey):
        read_passphrase(tmp_path / "pw")


def test_offline_and_online_keys_have_passphrases_of_their_own(tmp_path: Path) -> None:
    plant = Plant(tmp_path, secrets=Secrets(b"offline", None))
    assert b"ENCRYPTED" in (plant.keys / "root-1.pem").read_bytes()
    assert b"ENCRYPTED" not in (plant.keys / "online/timestamp-1.pem").read_bytes()


def test_thresholds_are_said_for_all_or_for_one() -> None:
    assert parse_thresholds(["root=2/3", "2"], ["root", "targets"]) == {"root": (2, 3), "targets": (2, 2)}


def test_pkcs11_uri_is_read_as_rfc_7512_writes_it() -> None:
    token = parse("pkcs11:token=My%20Token;id=%01%02?module-path=/usr/lib/x.so&pin-source=file:/run/pin")
    assert (token.label, token.number, token.module, token.pin_file) == (
        "My Token", 258, "/usr/lib/x.so", Path("/run/pin"),
    )  # fmt: skip
    with pytest.raises(BadKey, match="allowed: token") as raised:
        parse("pkcs11:slot-id=3")
    assert raised.value.code == "pkcs11-uri"


@pytest.mark.parametrize(
    "uri",
    [
        "pkcs11:token=releases;id=%01?pin-value=123456",
        "pkcs11:token=releases;id=%01?module-path=/x.so&pin-value=123456",
        "pkcs11:token=releases;id=%01?module-path=/x.so;pin-value=123456",
        "pkcs11:token=releases;id=%01;pin-value=123456",
        "pkcs11:token=releases;id=%01?Pin%2Dvalue=123456",
        "PKCS11:token=releases;id=%01?pin-value=123456",
        "pkcs11:token=releases;id=%01?pin=123456",
        "pkcs11:token=releases;id=%01;123456",
    ],
)
def test_no_line_shows_a_pin(uri: str, tmp_path: Path) -> None:
    plant = Plant(tmp_path)
    told = CliRunner().invoke(app, ["release", "resign", plant.url, "--online-key", uri, "--force"])
    assert isinstance(told.exception, BadKey) and told.exception.code == "pkcs11-uri"
    line = str(told.exception)
    assert line.startswith("pkcs11:token=releases;id=%01: ") and "\n" not in line
    assert "123456" not in f"{told.output}{line}"
    assert ("pin-value= is not taken, use pin-source" in line) is ("value" in uri)


def test_missing_pkcs11_library_is_one_line_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from securesystemslib.signer import _hsm_signer

    monkeypatch.setenv(MODULE_VARIABLE, "/nowhere.so")
    monkeypatch.setattr(_hsm_signer, "PKCS11_IMPORT_ERROR", "'python-pkcs11' required")
    with pytest.raises(BadKey, match=r"edge-inspect\[pkcs11\]") as raised:
        open_signer("pkcs11:token=x")
    assert raised.value.code == "pkcs11-missing"


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A SoftHSM token with an ECDSA key number 1 and PIN 1234: its URI."""
    if shutil.which("softhsm2-util") is None or not MODULE.exists() or importlib.util.find_spec("pkcs11") is None:
        pytest.skip("SoftHSM (softhsm2) or python-pkcs11 is not installed")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    monkeypatch.setenv(MODULE_VARIABLE, str(MODULE))
    command = "softhsm2-util --init-token --free --label releases --pin 1234 --so-pin 5678"
    subprocess.run(command.split(), check=True, capture_output=True, timeout=60)
    script = (
        "import pkcs11, pkcs11.util.ec as ec\n"
        f"token = pkcs11.lib({str(MODULE)!r}).get_token(token_label='releases')\n"
        "with token.open(user_pin='1234', rw=True) as session:\n"
        "    curve = ec.encode_named_curve_parameters('secp256r1')\n"
        "    facts = {pkcs11.Attribute.EC_PARAMS: curve}\n"
        "    parameters = session.create_domain_parameters(pkcs11.KeyType.EC, facts, local=True)\n"
        "    parameters.generate_keypair(id=b'\\x01', label='one', store=True)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=60, env=os.environ)
    yield f"pkcs11:token=releases;id=%01?module-path={MODULE}"


def test_token_signs_a_release_and_readers_take_it(tmp_path: Path, token: str) -> None:
    """In a process of its own: SoftHSM reads its settings once a process."""
    script = f"""
import sys
from pathlib import Path
from cloud_inspect.errors import BadKey
from cloud_inspect.release.founding import Secrets
from cloud_inspect.release.keys import open_signer
from cloud_inspect.release.packages import read_package
from cloud_inspect.release.rollouts import make_wish
from tests.cloud.release.plant import Plant, PRODUCT, ROLE

token = {token!r}
plant = Plant(Path({str(tmp_path)!r}) / "plant", given={{ROLE: [token]}}, secrets=Secrets(b"1234"))
wish, package = make_wish("stable", "anna"), read_package(plant.package("1.0.0"))
try:
    plant.change().release(PRODUCT, wish, package, [open_signer(token, b"9999")])
except BadKey as err:
    print(err.code)
plant.change().release(PRODUCT, wish, package, [open_signer(token, b"1234")])
plant.publish()
print(plant.reader().version())
try:
    open_signer(token.replace("%01", "%07"), b"1234")
except BadKey as err:
    print(err.code)
try:
    open_signer(token.replace("=releases", "=other"), b"1234")
except BadKey as err:
    print(err.code)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["signing-failed", "1.0.0", "pkcs11-refuses", "pkcs11-refuses"]
