"""Whatever the bytes are: a model, or one line that says what to change."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, model_validator

from edge_inspect.errors import BadConfig
from edge_inspect.toml_model import MAX_BYTES, read_toml


class Camera(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    fps: float = Field(25, gt=0)
    policy: Literal["newest", "every", "trigger"] = "newest"
    folder: Path | None = None
    size: tuple[int, int] | None = None


class Line(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    camera: list[Camera] = Field(default=[], min_length=1)
    url: str = Field("mqtt://here", pattern="^mqtts?://")

    @model_validator(mode="after")
    def names_differ(self) -> Line:
        if len({camera.name for camera in self.camera}) != len(self.camera):
            raise ValueError("two cameras have the same name")
        return self


CAMERA = b"[[camera]]\nname='a'\n"
BAD = {
    "empty": (b"", "found an empty file"),
    "only spaces": (b" \n\t\n", "found an empty file"),
    "not utf-8": (b"a = 1\nb = '\xff'", "line 2: found bytes that are not UTF-8"),
    "utf-16": ("a = 1".encode("utf-16"), "found a NUL byte"),
    "nul": (b"a = 'x\0y'", "found a NUL byte at offset 6"),
    "not toml": (
        b"camera:\n  - name: a",
        "not TOML: Expected '=' after a key in a key/value pair (at line 1, column 7)",
    ),
    "key twice": (b"url = 'mqtt://a'\nurl = 'mqtt://b'", "not TOML: Cannot overwrite a value"),
    "control character": (b"url = 'a\x01b'", "not TOML: Found invalid character"),
    "too big": (b"#" * (MAX_BYTES + 1), f"found more than {MAX_BYTES} bytes"),
    "nested arrays": (b"a = " + b"[" * 100_000, "nested too deeply"),
    "nested tables": (b"a = {" + b"b = {" * 50 + b"}" * 51, "found deeper nesting, allowed: at most 16 levels"),
    "dotted bomb": (b".".join([b"a"] * 200_000) + b" = 1", "found a key of more than 64 parts"),
    "number of 5000 digits": (b"a = " + b"9" * 5000, "not usable: "),
    "nan": (CAMERA + b"fps = nan", "key `camera[0].fps`: found nan, allowed: a finite number"),
    "infinity": (CAMERA + b"fps = -inf", "key `camera[0].fps`: found -inf, allowed: a finite number"),
    "out of range": (CAMERA + b"fps = 0", "key `camera[0].fps`: found 0, allowed: greater than 0"),
    "text for a number": (CAMERA + b"fps = '25'", 'key `camera[0].fps`: found "25", allowed: a valid number'),
    "truth for text": (b"[[camera]]\nname = true", "key `camera[0].name`: found true, allowed: a valid string"),
    "whole as float": (
        CAMERA + b"size = [640.0, 360]",
        "key `camera[0].size[0]`: found 640.0, allowed: a valid integer",
    ),
    "date for a url": (b"url = 2024-01-01\n" + CAMERA, 'key `url`: found "2024-01-01", allowed: match pattern'),
    "table for a list": (b"[camera]\nname = 'a'", "key `camera`: found something else, allowed: a valid array"),
    "unknown choice": (CAMERA + b"policy = 'evry'", "allowed: 'newest', 'every' or 'trigger'; did you mean 'every'?"),
    "unknown key": (b"urll = 'x'\n" + CAMERA, "key `urll`: unknown key; allowed: camera, url; did you mean `url`?"),
    "unknown inner key": (
        CAMERA + b"polcy = 'every'",
        "key `camera[0].polcy`: unknown key; allowed: folder, fps, name,",
    ),
    "missing key": (b"[[camera]]\nfps = 5", "key `camera[0].name`: missing, this key is required"),
    "rule between keys": (CAMERA + CAMERA, "two cameras have the same name"),
    "several": (b"x = 1\ny = 2\n" + CAMERA, "(and 1 more)"),
    "newline in a key": (b'"a\\nb" = 1\n' + CAMERA, r"key `a\x0ab`: unknown key"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file_is_one_line_with_file_and_cause(case: str, tmp_path: Path) -> None:
    raw, expected = BAD[case]
    path = tmp_path / "line.toml"
    path.write_bytes(raw)
    started = time.monotonic()
    with pytest.raises(BadConfig) as caught:
        read_toml(path, Line)
    assert str(caught.value).startswith(f"{path}: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert caught.value.exit_code == 78
    assert time.monotonic() - started < 10, "a bomb took hold"


def test_good_file_becomes_the_model(tmp_path: Path) -> None:
    path = tmp_path / "line.toml"
    path.write_bytes(b"\xef\xbb\xbf" + CAMERA + b"fps = 5\nfolder = '/tmp'\nsize = [640, 360]")
    camera = read_toml(path, Line).camera[0]
    assert (camera.fps, camera.folder, camera.size) == (5.0, Path("/tmp"), (640, 360))


def test_password_in_a_url_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "line.toml"
    path.write_bytes(b"url = 'http://user:secret@host'\n" + CAMERA)
    with pytest.raises(BadConfig) as caught:
        read_toml(path, Line)
    assert "secret" not in str(caught.value)
    assert "user:***@host" in str(caught.value)


def test_missing_file_names_its_nearest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "plates.toml").write_bytes(CAMERA)
    with pytest.raises(BadConfig, match=r"plate\.toml: no such file; did you mean .*plates\.toml\?"):
        read_toml(tmp_path / "plate.toml", Line)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (Path("/"), "found a folder"),
        (Path("/dev/null"), "found a device, pipe or socket"),
        (Path("a\0b"), "cannot be read"),
        (Path("x" * 5000), "cannot be read"),
        (Path("/dev/null/x.toml"), ""),
    ],
)
def test_path_that_is_no_file_is_one_line(path: Path, expected: str) -> None:
    with pytest.raises(BadConfig) as caught:
        read_toml(path, Line)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "line.toml"
    path.write_bytes(CAMERA)
    path.chmod(0)
    with pytest.raises(BadConfig, match="cannot be read: Permission denied"):
        read_toml(path, Line)


@given(st.binary(max_size=200) | st.text(alphabet="[]{}=.'\"\n ax1-_#\\", max_size=200).map(str.encode))
def test_any_bytes_are_a_model_or_one_line(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(raw)
    try:
        read_toml(path, Line)
    except BadConfig as err:
        assert str(err).isprintable()
