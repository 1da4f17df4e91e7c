"""What a person who runs `cloud-inspect release` for the first time meets: who signs second sees what they sign, a
command that failed can be repeated, a message says what to do.
"""

from __future__ import annotations

import errno
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cloud_inspect.cli import app
from cloud_inspect.errors import BadPackage, CloudError, StoreGone
from cloud_inspect.learning import training
from cloud_inspect.release.store import world
from tests.cloud.release.plant import PRODUCT, ROLE, Plant
from tests.cloud.release.test_release_commands import run
from tests.mosquitto import Mosquitto


def told(*command: str | Path) -> str:
    """What people read on stdout."""
    result = CliRunner().invoke(app, ["release", *map(str, command)])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def line_of(*command: str | Path) -> str:
    """The one line that refuses."""
    result = CliRunner().invoke(app, ["release", *map(str, command)])
    assert isinstance(result.exception, CloudError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_second_signer_reads_every_limit_that_the_first_one_chose(place: Path) -> None:
    plant = Plant(place, thresholds={ROLE: (2, 3)})
    plant.sign("1.0.0", key=[f"{ROLE}-1"])
    plant.change().countersign(ROLE, plant.signers(f"{ROLE}-2"))
    plant.publish()
    plant.sign("1.1.0", reason="new camera", shadow={"most_new_ng": 1.0}, audience={"lines": ("press-*",)})
    said = told("sign", plant.url, "--product", PRODUCT, "--key", f"keys/{ROLE}-2.pem")
    digest = plant.change().staged_rollouts(PRODUCT)[0].model.digest
    for what in (
        "release: metal-plate, channel stable, sequence 2: tiny 1.1.0; until now 1.0.0, sequence 1",
        digest, "for lines press-*; by anna", "reason: new camera", "shadow_parts 200, shadow_rejected 10",
        "trial_parts 500", "not the defaults: most_new_ng 1.0 (0.05)",
        "other than until now: most_new_ng 0.05 -> 1.0, for all -> lines press-*", "brings tiny/1.1.0: 3 files",
        f"next: cloud-inspect release publish {plant.url} --online-key keys/online",
    ):  # fmt: skip
        assert what in said


def test_who_signs_a_root_reads_which_keys_come_and_go(place: Path) -> None:
    plant = Plant(place, thresholds={"root": (2, 3)})
    told("rotate-keys", plant.url, "--role", "root", "--new", "keys/root-4.pem", "--remove", "root-1",
         "--threshold", "3", "--key", "keys/root-1.pem")  # fmt: skip
    said = told("sign", plant.url, "--role", "root", "--key", "keys/root-2.pem")
    assert "root: key goes: root-1 (" in said and "root: key comes: root-4 (" in said
    assert "root: threshold 2 of 3 -> 3 of 3" in said


def test_who_signs_targets_reads_other_keys_paths_and_products(place: Path) -> None:
    plant = Plant(place)
    change = plant.change()
    draft = change.draft(plant.state(), plant.signers("targets-1"))
    with draft.edit_targets() as targets:
        assert targets.delegations is not None and targets.delegations.roles is not None
        targets.delegations.roles[ROLE].paths = ["*/*/*"]
        targets.unrecognized_fields["x-strange"] = 1
    with change.staging.store.lock():
        assert change.stage(draft, "targets").roles == (
            f"{ROLE}: may sign */*/*",
            "targets: x-strange is another one",
        )


def test_release_that_a_channel_is_at_already_is_not_replaced_in_silence(place: Path) -> None:
    plant = Plant(place)
    plant.release("1.0.0", shadow={"most_new_ng": 0.7})
    again = ("sign", plant.url, plant.package("1.0.0"), "--product", PRODUCT, "--key", f"keys/{ROLE}-1.pem")
    line = line_of(*again)
    assert "stable is at tiny 1.0.0 already (sequence 1); this changes: most_new_ng 0.7 -> 0.05" in line
    assert line.endswith("[same-release]") and plant.staged.names("metadata") == []
    assert run(*again, "--again")["rollouts"][0]["sequence"] == 2


def test_other_reason_and_releaser_are_said_to_change(place: Path) -> None:
    plant = Plant(place)
    plant.release("1.0.0", reason="first")
    again = ("sign", plant.url, plant.package("1.0.0"), "--product", PRODUCT, "--key", f"keys/{ROLE}-1.pem")
    line = line_of(*again, "--reason", "a\nb", "--released-by", "bert")
    assert "; this changes: reason 'first' -> 'a\\nb', by 'anna' -> 'bert'; to do it: --again" in line
    assert "nothing would change but the sequence" in line_of(*again, "--reason", "first", "--released-by", "anna")


def test_list_shows_limits_of_its_own_and_the_reason(place: Path) -> None:
    plant = Plant(place)
    assert told("list", plant.url).startswith("metal-plate: nothing is released yet; expires 20")
    plant.release("1.0.0", shadow={"most_new_ng": 0.7}, reason="first")
    assert "for all; by anna; most_new_ng 0.7 (default 0.05); reason: first" in told("list", plant.url)


@pytest.mark.parametrize(
    ("repository", "keys"),
    [("new", "file"), ("new", "file/k"), ("new", "/proc/k2"), ("/proc/foo", "new-keys"), ("file", "new-keys"),
     ("file/x", "new-keys")],
)  # fmt: skip
def test_place_that_cannot_be_made_is_one_line_and_leaves_no_key(place: Path, repository: str, keys: str) -> None:
    (place / "file").write_text("in the way")
    assert line_of("init", repository, "--keys", keys, "--product", PRODUCT).endswith("[store-gone]")
    assert not list(place.rglob("*.pem")) and not list(place.rglob("*.pub"))
    assert run("init", "good", "--keys", "new-keys", "--product", PRODUCT)["exit"] == 0


def test_missing_rights_have_a_code_of_their_own() -> None:
    with pytest.raises(StoreGone) as raised, world("/srv/models"):
        raise PermissionError(errno.EACCES, "Permission denied")
    assert raised.value.code == "no-rights"


def test_failed_founding_takes_its_keys_and_metadata_away_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloud_inspect.release.store import Folder

    write = Folder.write

    def full(self: Folder, name: str, content: bytes) -> None:
        if name.endswith("timestamp.json"):
            raise StoreGone("disk-full", f"{name}: No space left on device")
        write(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", full)
        assert line_of("init", "repo", "--keys", "new/keys", "--product", PRODUCT).endswith("[disk-full]")
    assert not (place / "new").exists()
    assert run("init", "repo", "--keys", "new/keys", "--product", PRODUCT)["exit"] == 0


def test_founding_that_fails_leaves_no_folder_where_none_was(place: Path) -> None:
    init = ("init", "new/repo", "--keys", "keys", "--product", PRODUCT)
    assert line_of(*init, "--key", "root=nope.pem").endswith("[key-missing]")
    assert line_of(*init, "--product", PRODUCT) == f"product {PRODUCT}: is named twice [product-exists]"
    assert list(place.iterdir()) == []
    (place / "new/repo").mkdir(parents=True)
    assert line_of(*init, "--key", "root=nope.pem").endswith("[key-missing]")
    assert (place / "new/repo").is_dir(), "was there before this command"


def test_mistyped_place_of_changes_is_not_made(place: Path) -> None:
    plant = Plant(place)
    plant.sign("1.0.0")
    publish = ("publish", plant.url, "--online-key", "keys/online", "--staged")
    assert line_of(*publish, "wrong/staged") == "wrong/staged: nothing waits there [nothing-staged]"
    assert not (place / "wrong").exists()
    assert run(*publish, f"{plant.url}/staged")["roles"]


def test_failed_rotation_can_be_repeated(place: Path) -> None:
    plant = Plant(place)
    rotate = ("rotate-keys", plant.url, "--role", "root", "--new", "keys/root-2.pem", "--remove", "root-1", "--key")
    line = line_of(*rotate, "keys/targets-1.pem")
    assert line.startswith("keys/targets-1.pem (") and line.endswith("[key-not-of-role]"), "the key's file is named"
    assert not (place / "keys/root-2.pem").exists() and not (place / "keys/root-2.pub").exists()
    assert "new key: keys/root-2.pem" in told(*rotate, "keys/root-1.pem")
    assert told("sign", plant.url, "--discard") == f"discarded: {plant.url}/staged: root\n"
    assert told("sign", plant.url, "--discard") == f"nothing was staged in {plant.url}/staged\n"
    assert "to use it: --add keys/root-2.pem" in line_of(*rotate, "keys/root-1.pem")
    assert (place / "keys/root-2.pem").exists(), "was there before this command"


@pytest.mark.parametrize("role", ["root", "targets", "timestamp", ROLE])
def test_rotation_to_the_keys_that_are_there_stages_nothing(place: Path, role: str) -> None:
    plant = Plant(place)
    folder = "keys/online" if role == "timestamp" else "keys"
    rotate = ("rotate-keys", plant.url, "--role", role, "--key", "keys")
    for given in ((), ("--threshold", "1"), ("--add", f"{folder}/{role}-1.pub")):
        line = line_of(*rotate, *given)
        assert line == f"{role}: nothing would change: these are its keys, threshold 1 [same-keys]"
    assert plant.staged.names("metadata") == []


def test_product_that_is_there_is_said_before_its_keys_are(place: Path) -> None:
    plant = Plant(place)
    add = ("add-product", plant.url, "--keys", "keys", "--key", "keys", "--product")
    assert line_of(*add, PRODUCT).endswith("[product-exists]")
    assert "new key: keys/product-screw-1.pem" in told(*add, "screw")
    assert line_of(*add, "other").endswith("[staged]")
    assert not (place / "keys/product-other-1.pem").exists()


def test_folder_of_keys_stands_for_those_that_fit(place: Path) -> None:
    """Without a passphrase for the others: their public halves say whose they are."""
    plant = Plant(place)
    for file in place.glob(f"keys/{ROLE}-1.pem"):
        file.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    found = run("rotate-keys", plant.url, "--role", "root", "--new", "new/root-2.pem", "--remove", "root-1",
                "--key", "keys")  # fmt: skip
    assert found["missing"] == [] and len(found["signed_by"]) == 2
    assert run("sign", plant.url, "--role", "root", "--key", "keys")["signed_by"]
    line = line_of("sign", plant.url, "--role", "root", "--key", "keys/online")
    assert line.startswith("keys/online: none of the keys in this folder") and line.endswith("[key-not-of-role]")


@pytest.mark.parametrize("command", [("resign",), ("resign", "--watch"), ("serve", "--resign", "--port", "0")])
def test_wrong_online_key_is_found_at_the_start(place: Path, command: tuple[str, ...]) -> None:
    plant = Plant(place)
    line = line_of(*command, plant.url, "--online-key", "keys/root-1.pem")
    assert line.startswith("keys/root-1.pem (") and line.endswith("[key-not-of-role]")


def test_one_online_key_of_two_does_not_keep_a_repository_signed(place: Path) -> None:
    plant = Plant(place)
    given = (plant.url, "--online-key", "keys/online/timestamp-1.pem")
    assert "snapshot: 0 of 1 signatures" in line_of("resign", "--watch", *given)
    assert run("resign", *given)["roles"] == {}
    assert "--online-key" in line_of("serve", plant.url, "--resign")


def test_server_given_keys_that_it_would_not_use_does_not_start(place: Path) -> None:
    plant = Plant(place)
    result = CliRunner().invoke(app, ["release", "serve", plant.url, "--port", "0", "--online-key", "keys/online"])
    assert result.exit_code == 2 and "signs nothing without --resign" in result.stderr


def test_key_without_a_root_beside_it_signs_with_one_warning(place: Path) -> None:
    plant = Plant(place)
    alone = place / "far/away" / f"{ROLE}-1.pem"
    alone.parent.mkdir(parents=True)
    (place / f"keys/{ROLE}-1.pem").rename(alone)
    sign = ("release", "sign", plant.url, "--product", PRODUCT, "--renew", "--key", str(alone))
    warned = CliRunner().invoke(app, sign).stderr
    assert warned == f"warning: no root.json beside {alone}, no --root: nothing shows whose repository this is\n"
    discard = ("release", "sign", plant.url, "--discard")
    assert CliRunner().invoke(app, discard).stderr == ""
    assert CliRunner().invoke(app, [*sign, "--root", "keys/root.json"]).stderr == ""


def test_revocation_reads_like_one(place: Path) -> None:
    plant = Plant(place)
    plant.release("1.0.0")
    plant.release("1.1.0")
    revoke = ("revoke", plant.url, "--product", PRODUCT, "--released", "tiny/1.1.0", "--key", "keys", "--reason")
    result = CliRunner().invoke(app, ["release", *revoke, " "])
    assert result.exit_code != 0 and plant.staged.names("metadata") == []
    said = told(*revoke, "misses dents")
    assert said.startswith("revokes tiny 1.1.0: metal-plate, channel stable, sequence 3; boxes that run it go back")
    plant.publish()
    (place / "stick").mkdir()
    said = told("export", plant.url, "--usb", "stick", "--product", PRODUCT)
    assert "channel stable: revokes tiny 1.1.0; boxes that run it go back to what they ran before" in said
    assert "{" not in said and "[" not in said
    assert run("export", plant.url, "--usb", "stick", "--product", PRODUCT)["revoked_now"] == ["stable"]
    assert line_of(*revoke, "again").endswith("[revoked-already]")
    instead = run(*revoke, "again", "--to", "tiny/1.0.0")
    assert instead["rollouts"][0]["model"]["version"] == "1.0.0"


def test_root_of_another_repository_is_said_to_be_one(place: Path) -> None:
    plant, other = Plant(place / "ours"), Plant(place / "other")
    line = line_of("verify", plant.url, "--root", other.keys / "root.json")
    assert "is not of this repository" in line and line.endswith("[metadata-refused]")
    (place / "line.toml").write_text("[device]\n")
    assert line_of("verify", plant.url, "--root", "line.toml").startswith("line.toml: is no TUF metadata")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--shadow-parts", "-4"), "--shadow-parts: found -4"),
        (("--trial-parts", "0"), "--trial-parts: found 0"),
        (("--channel", "A b"), "--channel: found 'A b': allowed: a-z 0-9 -"),
        (("--sites", ""), "--sites: found '': allowed: letters"),
        (("--released-by", "a\nb"), "--released-by: found 'a\\nb': allowed: one line"),
    ],
)
def test_option_that_is_refused_is_named_in_words(place: Path, given: tuple[str, str], words: str) -> None:
    plant = Plant(place)
    sign = ("sign", plant.url, plant.package("1.0.0"), "--product", PRODUCT, "--key", "keys", *given)
    line = line_of(*sign)
    assert line.startswith(words) and not re.search(r"pattern|\^\[", line)


def test_build_says_what_is_not_there_and_what_a_version_is(place: Path) -> None:
    build: Any = ("build", "runs/nope", "--name", "x", "--out", "out", "--version")
    assert line_of(*build, "1.0.0") == "runs/nope: No such file or directory"
    (place / "model.onnx").write_bytes(b"")
    with pytest.raises(BadPackage, match=r"--version 'banana': allowed: three numbers.*e\.g\. 1\.1\.0"):
        run("build", "model.onnx", "--data", "d.yaml", "--name", "x", "--out", "out", "--version", "banana")


def test_hint_that_nobody_hears_ends_with_1(place: Path, mosquitto: Mosquitto) -> None:
    plant = Plant(place)
    plant.release("1.0.0")
    result = CliRunner().invoke(app, ["release", "announce", plant.url, "--product", PRODUCT, "--mqtt", mosquitto.url,
                                      "--device", "p/press-4/nobody"])  # fmt: skip
    assert result.exit_code == 1
    assert "told p/press-4/nobody: sequence 1; nobody listens there" in result.stdout


def test_program_has_a_version() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0 and re.fullmatch(r"cloud-inspect \d+\.\d+\.\d+\S*\n", result.stdout)


def test_training_without_its_packages_writes_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it may be repeated once they are installed."""
    import sys

    from cloud_inspect.errors import TrainingMissing

    monkeypatch.setitem(sys.modules, "ultralytics", None)
    monkeypatch.setitem(sys.modules, "ultralytics.utils", None)
    monkeypatch.setattr(training, "mix", lambda *_, **__: pytest.fail("data was written"))
    (place / "yolov8n.pt").write_bytes(b"")
    plan = training.Plan((place / "data.yaml",), place / "yolov8n.pt", place / "runs/dents", epochs=1)
    with pytest.raises(TrainingMissing, match="pip install"):
        training.train(plan)
    assert not (place / "runs").exists()
