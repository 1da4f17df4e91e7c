"""`edge-inspect config`: what it writes loads, what it shows is in force, and the committed page is what it prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edge_inspect.cli import run_command
from edge_inspect.cli.config_docs import configuration_page, starter_file, tables
from edge_inspect.config import Config, load_config
from edge_inspect.toml_model import read_toml
from edge_inspect.verdict.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]


def test_committed_page_is_what_the_models_say() -> None:
    page = ROOT / "docs" / "configuration.md"
    assert page.read_text() == configuration_page(), "run: edge-inspect config docs --write docs/configuration.md"


@pytest.mark.parametrize("model", [Config, Recipe])
def test_every_key_is_explained_or_speaks_for_itself(model: type[Config] | type[Recipe]) -> None:
    speaking = {"name", "version", "polygon", "mm_per_px", "thumbnail", "thumbnail_max_bytes"}
    silent = [f"{table.header}.{key.name}" for table in tables(model) for key in table.keys if not key.text]
    assert [name for name in silent if name.rpartition(".")[2] not in speaking] == []


def test_starter_file_loads_and_names_every_key(tmp_path: Path) -> None:
    file = tmp_path / "line.toml"
    assert run_command(["config", "init", str(file), "--camera", "/dev/video7"]) == 0
    config = load_config(file, {})
    assert [camera.source for camera in config.camera] == ["/dev/video7"]
    assert config == load_config(file, {})
    text = file.read_text()
    for table in tables(Config):
        assert table.header in text
        for key in table.keys:
            assert f"{key.name} = " in text


def test_starter_file_with_every_default_uncommented_means_the_same(tmp_path: Path) -> None:
    lines, told, table_is_off = starter_file("sim").splitlines(), [], False
    for line in lines:
        if line.lstrip("# ").startswith("["):
            table_is_off = line.startswith("#")
        is_default = line.startswith("# ") and " = " in line and not line.endswith("...") and not table_is_off
        told.append(line.removeprefix("# ") if is_default else line)
    (tmp_path / "told.toml").write_text("\n".join(told))
    (tmp_path / "bare.toml").write_text("\n".join(lines))
    assert read_toml(tmp_path / "told.toml", Config) == read_toml(tmp_path / "bare.toml", Config)


def test_init_does_not_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "line.toml"
    file.write_text("mine")
    assert run_command(["config", "init", str(file)]) == 64
    assert "--force" in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert run_command(["config", "init", str(file), "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(file), "camera": "/dev/video0"}


def test_init_into_a_missing_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["config", "init", str(tmp_path / "no" / "line.toml")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_show_is_a_configuration_that_means_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "line.toml"
    file.write_text(
        '[device]\nsite = "plant1"\n[[camera]]\nname = "a"\nsource = "sim:seed=3"\nrecipe = "metal-plate"\n'
        '[mqtt]\nurl = "mqtts://b"\nca = "system"\n[model]\nshape = [384, 640]\n'
    )
    assert run_command(["config", "show", str(file)]) == 0
    again = tmp_path / "shown.toml"
    again.write_text(capsys.readouterr().out)
    assert load_config(again) == load_config(file)


def test_show_json_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "line.toml"
    file.write_text('[[camera]]\nname = "a"\nsource = "sim"\n')
    assert run_command(["config", "show", str(file), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["camera"][0]["source"] == "sim"
    assert shown["mqtt"] is None


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('recipe = "broken.toml"', "broken.toml: key `clases`"),
        ('recipe = "strange.toml"', "key `classes.unicorn`"),
        ('source = "gone.mp4"', "key `camera[0].source`"),
        ('source = "sim:sed=3"', "did you mean seed"),
        ('source = "sim"\nmodel = "no-such-model"', "key `camera[0].model`"),
        ('[model]\ndir = "no-such-model"', "key `model.dir`"),
    ],
)
def test_check_looks_into_what_the_configuration_points_at(
    line: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.toml").write_text('name = "r"\nversion = "1"\n[clases.x]\n')
    (tmp_path / "strange.toml").write_text('name = "r"\nversion = "1"\n[classes.unicorn]\n')
    file = tmp_path / "line.toml"
    source = "" if "source" in line else 'source = "sim"\n'
    file.write_text(f'[[camera]]\nname = "a"\n{source}{line}\n')
    assert run_command(["config", "check", str(file)]) == 78
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_check_of_a_good_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "line.toml"
    file.write_text('[[camera]]\nname = "a"\nsource = "sim"\n[[camera]]\nname = "b"\nsource = "/dev/video9"\n')
    assert run_command(["config", "check", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(file), "cameras": ["a", "b"]}


TRIGGERED = 'name = "t"\nversion = "1"\n[classes.scratch]\n[part]\nmode = "trigger"\ndeadline_ms = 50\n'


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ("", "needs a [[line]]"),
        ('policy = "every"\n[[line]]\n[line.socket]\n', "key `policy`: found 'every'"),
        ("[[line]]\n[line.gpio]\nok_line = 3\n", "key `trigger`: missing"),
        ("[[line]]\nmargin_ms = 50\n[line.socket]\n", "key `margin_ms`: found 50, allowed: less than"),
        ("[[line]]\n[line.socket]\n[line.reject]\ntravel_ms = 49\n", "key `reject.travel_ms`: found 49"),
        ("[[line]]\n[line.socket]\n[line.reject]\ntravel_ms = 50\n", ""),
    ],
)
def test_check_looks_at_line_and_recipe_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tables: str, says: str
) -> None:
    (tmp_path / "t.toml").write_text(TRIGGERED)
    file = tmp_path / "line.toml"
    file.write_text(f'[[camera]]\nname = "a"\nsource = "sim"\nrecipe = "t.toml"\n{tables}')
    assert run_command(["config", "check", str(file)]) == (78 if says else 0)
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("key", ['trigger = "socket"', "queue = 0", "margin_ms = 3"])
def test_what_means_nothing_without_triggers_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    file = tmp_path / "line.toml"
    file.write_text(f'[[camera]]\nname = "a"\nsource = "sim"\n[[line]]\n{key}\n[line.socket]\n')
    assert run_command(["config", "check", str(file)]) == 78
    said = capsys.readouterr().err
    assert f"key `{key.partition(' ')[0]}`" in said and "part.mode is not 'trigger'" in said
    file.write_text(file.read_text().replace(key + "\n", ""))
    assert run_command(["config", "check", str(file)]) == 0
    assert run_command(["config", "show", str(file)]) == 0
    assert "[[line]]" in (shown := capsys.readouterr().out) and "[line.socket]" in shown


def test_check_refuses_an_adapter_whose_library_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "line.toml"
    for library, table in (("pymodbus", "[line.modbus_server]"), ("gpiod", "[line.gpio]\nok_line = 3")):
        file.write_text(f'[[camera]]\nname = "a"\nsource = "sim"\n[[line]]\n{table}\n')
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, library, None)
            assert run_command(["config", "check", str(file)]) == 78
        assert f"needs {library}, which is not installed" in capsys.readouterr().err


def test_check_refuses_a_socket_in_a_folder_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "line.toml"
    file.write_text('[[camera]]\nname = "a"\nsource = "sim"\n[[line]]\n[line.socket]\npath = "gone/a.sock"\n')
    assert run_command(["config", "check", str(file)]) == 78
    assert f'key `socket.path`: found "{tmp_path}/gone/a.sock"' in capsys.readouterr().err
    (tmp_path / "gone").mkdir()
    assert run_command(["config", "check", str(file)]) == 0
    assert list((tmp_path / "gone").iterdir()) == []
