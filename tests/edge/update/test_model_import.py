"""`edge-inspect model import`: what it says of each kind of stick, and whose files it makes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_inspect.cli import fetch, run_command
from edge_inspect.cli.as_owner import as_owner_of
from edge_inspect.errors import Refusal
from edge_inspect.update.state import Floor
from edge_inspect.update.store import Store
from edge_wire.release import CHANNELS, Rollout, channel_target
from tests.edge.update.box import Box
from tests.sim.tuf_repository import PRODUCT, TufRepository

OWNER, OTHER = 65533, 65532
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: works with the files of two users")


class Stick:
    """A repository written to a folder, and a box that trusts it."""

    def __init__(self, box: Box, folder: Path, *, product: str = PRODUCT) -> None:
        self.box = box
        self.folder = folder
        self.state_dir = box.root / "box"
        self.repository = TufRepository()
        self.config = box.root / "line.toml"
        (box.root / "root.json").write_bytes(self.repository.first_root)
        self.config.write_text(
            f'state_dir = "{self.state_dir}"\n[device]\nsite = "plant1"\nline = "press-4"\ndevice = "edge-0017"\n'
            f'[[camera]]\nname = "left"\nsource = "sim"\n[model]\ndir = "{box.factory}"\n'
            f'[update]\nproduct = "{product}"\nroot = "{box.root}/root.json"\nkeep_free_bytes = 0\n'
        )

    def release(self, package: Path, sequence: int = 1, **changes: object) -> Rollout:
        rollout = self.repository.release(package, sequence, **changes)
        self.repository.write_to(self.folder)
        return rollout

    def imported(self, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run_command(["model", "import", str(self.folder), "--config", str(self.config), *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    def known(self, **changes: object) -> None:
        """The daemon has saved such a state."""
        with Store.open(self.state_dir / "update", self.state_dir / "models", self.box.factory) as store:
            store.save(store.state.model_copy(update=changes))


@pytest.fixture
def stick(box: Box, tmp_path: Path) -> Stick:
    return Stick(box, tmp_path / "stick")


def test_a_release_is_offered_until_it_was_tried(
    stick: Stick, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    rollout = stick.release(models["b"])
    code, _, err = stick.imported(capsys)
    assert code == 0 and "tiny 1.1.0" in err and "is verified and offered; see `model list`" in err

    def role() -> list[str]:
        assert run_command(["model", "list", "--config", str(stick.config), "--json"]) == 0
        listed = json.loads(capsys.readouterr().out)["models"]
        return next(model["roles"] for model in listed if model["digest"] == rollout.model.digest)

    assert role() == ["offered"]
    for words in (["tiny", "1.1.0"], [rollout.model.digest[7:15]]):  # before a daemon's first start
        assert run_command(["model", "activate", *words, "--config", str(stick.config)]) == 1
        assert "is offered and was not tried yet" in capsys.readouterr().err
    floor = Floor(sequence=1, digest=rollout.model.digest, settled=True)
    stick.known(floors={f"{PRODUCT}/stable": floor}, known=(rollout.model,), active=rollout.model.digest)
    assert role() == ["active"]
    code, _, err = stick.imported(capsys)
    assert code == 0 and "tiny 1.1.0" in err and "judges here already" in err


def test_a_release_for_others_says_for_whom(
    stick: Stick, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    stick.release(models["b"], audience={"sites": ["*"], "lines": ["*"], "devices": ["edge-9*"]})
    code, out, err = stick.imported(capsys, "--json")
    assert code == 0 and "is for */*/edge-9*, this box is plant1/press-4/edge-0017" in err
    assert json.loads(out)["offered"] is False


def test_a_revocation_is_told_as_one(stick: Stick, models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    rollout = stick.release(models["b"])
    digest = rollout.model.digest
    assert stick.imported(capsys)[0] == 0
    stick.known(known=(rollout.model,), active=digest)
    stick.release(models["b"], 2, revoked=(digest,))
    code, _, err = stick.imported(capsys)
    assert code == 0 and "revokes tiny 1.1.0" in err and "which judges now: the one before it comes back" in err
    assert "offered" not in err


def test_another_product_is_named_with_those_that_are_there(
    box: Box, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stick = Stick(box, tmp_path / "stick", product="ball")
    stick.release(models["b"])
    code, _, err = stick.imported(capsys)
    assert code == 1 and f"product ball is not in it; it has: {PRODUCT} [target-unknown]" in err
    stick.config.write_text(stick.config.read_text().replace('"ball"', f'"{PRODUCT}"\nchannel = "beta"'))
    code, _, err = stick.imported(capsys)
    assert code == 1 and f"product {PRODUCT} has no channel beta in it; it has: stable" in err


def test_a_stick_without_the_boxs_channel_says_which_it_has(
    stick: Stick, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """All channels are signed together, but only some were exported."""
    stick.repository.put(f"product-{PRODUCT}", channel_target(PRODUCT, "canary"), b"{}")
    stick.release(models["b"])
    (file,) = (stick.folder / "targets" / PRODUCT / CHANNELS).glob("*.stable.json")
    file.unlink()
    code, _, err = stick.imported(capsys)
    assert code == 1 and err == (
        f"edge-inspect: {stick.folder}: has only channel canary of product {PRODUCT}, this box follows stable; "
        "export that, too [file-missing]\n"
    )


def test_an_older_stick_is_called_older(
    box: Box, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stick = Stick(box, tmp_path / "Stick mit \u00dc")
    stick.release(models["b"])
    before = tmp_path / "before"
    shutil.copytree(stick.folder, before)
    stick.release(models["b"], 2)
    assert stick.imported(capsys)[0] == 0
    shutil.rmtree(stick.folder)
    before.rename(stick.folder)
    code, _, err = stick.imported(capsys)
    assert code == 1 and f"{stick.folder}: is older than what this box has seen: timestamp no. " in err
    assert "export it anew [metadata-rollback]" in err and "file:" not in err


def test_the_root_of_another_repository_is_named(
    stick: Stick, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    stick.release(models["b"])
    (stick.box.root / "root.json").write_bytes(TufRepository().first_root)
    code, _, err = stick.imported(capsys)
    assert code == 1 and f"whose root.json this box has, {stick.box.root / 'root.json'}? [metadata-unsigned]" in err
    assert f"{stick.folder}/metadata: " in err


def test_a_file_is_no_stick(stick: Stick, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stick.folder.write_text("")
    code, _, err = stick.imported(capsys)
    assert code == 1 and f"{stick.folder}: is a file, allowed: a folder" in err and "[not-a-repository]" in err


def test_a_file_that_is_missing_or_empty_is_named_once(
    stick: Stick, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    stick.release(models["b"])
    timestamp = stick.folder / "metadata" / "timestamp.json"
    timestamp.write_bytes(b"")
    code, _, err = stick.imported(capsys)
    assert code == 1 and "timestamp.json: Failed to deserialize JSON [metadata-broken]" in err
    timestamp.unlink()
    code, _, err = stick.imported(capsys)
    assert code == 1 and err == f"edge-inspect: {timestamp}: no such file [file-missing]\n"


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "no-space"), (errno.EDQUOT, "no-space"), (errno.EROFS, "storage-failing")]
)
def test_a_disk_that_takes_nothing_is_one_line_with_a_code(
    stick: Stick, models: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    number: int, code: str,
) -> None:  # fmt: skip
    stick.release(models["b"])

    def failing(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", failing)
    exit_code, _, err = stick.imported(capsys)
    assert exit_code == 1 and err.endswith(f": {os.strerror(number)} [{code}]\n") and err.count("\n") == 1


@pytest.fixture
def open_box(models: dict[str, Path]) -> Iterator[Box]:
    """Where other users may go, too."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Box(Path(name), models)


@as_root
def test_what_root_imports_belongs_to_the_daemon(
    open_box: Box, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    stick = Stick(open_box, open_box.root / "stick")
    stick.release(models["b"])
    stick.state_dir.mkdir()
    os.chown(stick.state_dir, OWNER, OWNER)
    code, _, err = stick.imported(capsys)
    assert code == 0 and os.geteuid() == 0 and os.getegid() == 0, err
    made = [stick.state_dir, *stick.state_dir.rglob("*")]
    assert any(path.name == "lock" for path in made)
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(OWNER, OWNER)}


@as_root
def test_what_root_fetches_belongs_to_the_daemon(open_box: Box, models: dict[str, Path]) -> None:
    stick = Stick(open_box, open_box.root / "stick")
    stick.release(models["b"])
    stick.config.write_text(stick.config.read_text() + f'url = "{stick.folder.as_uri()}"\nfetch = "service"\n')
    stick.state_dir.mkdir()
    os.chown(stick.state_dir, OWNER, OWNER)
    assert fetch.run_command(["--config", str(stick.config), "--once"]) == 0
    made = list(stick.state_dir.rglob("*"))
    assert made and {path.stat().st_uid for path in made} == {OWNER} and os.geteuid() == 0


@as_root
def test_a_rollback_by_root_leaves_files_that_the_daemon_can_open(
    open_box: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    stick = Stick(open_box, open_box.root / "stick")
    folder = stick.state_dir / "update"
    folder.mkdir(parents=True)
    os.chown(folder, OWNER, OWNER)
    assert run_command(["model", "rollback", "--config", str(stick.config)]) == 1
    assert "[no-previous]" in capsys.readouterr().err
    assert {path.stat().st_uid for path in folder.rglob("*")} == {OWNER}


@as_root
def test_who_is_not_the_owner_is_told_whom_to_ask(open_box: Box) -> None:
    folder = open_box.root / "models"
    os.chown(folder, OWNER, OWNER)
    with _as_user(OTHER), pytest.raises(Refusal, match=r"sudo -u '#65533' edge-inspect model import"):
        with as_owner_of(folder, asks="edge-inspect model import"):
            raise AssertionError("nothing is to be done")


@as_root
def test_a_stick_that_only_one_user_may_read_is_named(
    open_box: Box, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """As desktops mount them."""
    stick = Stick(open_box, open_box.root / "stick")
    stick.release(models["b"])
    stick.folder.chmod(0o700)
    stick.state_dir.mkdir()
    os.chown(stick.state_dir, OWNER, OWNER)
    code, _, err = stick.imported(capsys)
    assert code == 1 and "may not read it; copy it to where it may" in err and not list(stick.state_dir.iterdir())


def test_the_owner_works_as_it_is(tmp_path: Path) -> None:
    with as_owner_of(tmp_path / "missing", tmp_path, asks="edge-inspect model import"):
        assert os.geteuid() == tmp_path.stat().st_uid


@contextmanager
def _as_user(user: int) -> Iterator[None]:
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
