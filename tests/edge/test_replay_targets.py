"""What `replay` writes never destroys what it reads, and is whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import av
import numpy as np
import pytest

from edge_inspect.cli import run_command
from edge_inspect.cli.annotate import AnnotatedVideo
from edge_inspect.errors import Usage


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(3):
            picture = np.full((64, 64, 3), 240, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        file.mux(stream.encode(None))
    return path


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    assert run_command(["replay", *map(str, words)]) == Usage.exit_code
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    return err


@pytest.mark.parametrize("way", ["itself", "link", "hard link", "round about", "file://", "gst"])
def test_the_recording_is_never_written_over_by_its_annotated_copy(
    clip: Path, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    before, source, target = clip.read_bytes(), str(clip), clip
    if way == "link":
        (target := clip.with_name("link.mp4")).symlink_to(clip)
    elif way == "hard link":
        os.link(clip, target := clip.with_name("hard.mp4"))
    elif way == "round about":
        (clip.parent / "sub").mkdir()
        target = clip.parent / "sub" / ".." / clip.name
    elif way == "file://":
        source = f"file://{clip}"
    elif way == "gst":
        source = f"gst:filesrc location={clip} ! decodebin ! videoconvert ! appsink"
    assert f"--annotate {target}: is the source" in refused(capsys, source, "--annotate", target)
    assert clip.read_bytes() == before


@pytest.mark.parametrize("name", ["index.html", "parts.jsonl", "parts/camera-000003.jpg"])
def test_the_recording_is_never_written_over_through_out(
    clip: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    source = clip.parent / "out" / name
    source.parent.mkdir(parents=True)
    clip.rename(source)
    before = source.read_bytes()
    assert "is the source" in refused(capsys, source, "--out", clip.parent / "out")
    assert source.read_bytes() == before


def test_pictures_of_an_earlier_replay_are_not_its_own_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "parts").mkdir(parents=True)
    assert "is the source" in refused(capsys, tmp_path / "out" / "parts", "--out", tmp_path / "out")


def test_a_truth_or_recipe_is_never_written_over(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (truth := clip.parent / "summary.json").write_text("{}")
    assert "is the truth" in refused(capsys, clip, "--truth", truth, "--out", clip.parent)
    assert truth.read_text() == "{}"


def test_no_folder_is_made_for_an_annotated_copy(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = clip.parent / "missing"
    assert f"there is no folder {missing}" in refused(capsys, clip, "--annotate", missing / "copy.mp4")
    assert not missing.exists()


def test_a_copy_that_failed_leaves_nothing_and_what_was_there_stays(tmp_path: Path) -> None:
    (old := tmp_path / "copy.mp4").write_bytes(b"of yesterday")
    with pytest.raises(RuntimeError), AnnotatedVideo(old, 25) as video:
        video._encode(np.zeros((64, 64, 3), np.uint8))
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["copy.mp4"]
    assert old.read_bytes() == b"of yesterday" and not video.written


def test_a_copy_appears_whole_under_its_name(tmp_path: Path) -> None:
    with AnnotatedVideo(tmp_path / "copy.mp4", 25) as video:
        video._encode(np.zeros((64, 64, 3), np.uint8))
        assert not video.path.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["copy.mp4"]
    with av.open(str(video.path)) as file:
        assert sum(1 for _ in file.decode(video=0)) == 1


def test_without_a_frame_there_is_no_copy(tmp_path: Path) -> None:
    with AnnotatedVideo(tmp_path / "copy.mp4", 25) as video:
        pass
    assert not video.written and not list(tmp_path.iterdir())


def test_the_truth_of_another_recording_is_one_line(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (truth := clip.parent / "gt.json").write_text(json.dumps({"onset_frame": 1, "frames": [[]] * 40}))
    assert "is of another recording: it has 40 frames, the recording 3" in refused(capsys, clip, "--truth", truth)


def test_a_person_reads_the_summary_on_stdout_and_machines_the_last_line(
    clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["replay", str(clip), "--out", str(clip.parent / "out")]) == 0
    said = capsys.readouterr().out
    assert "3 frames, " in said and "0 parts: " in said and "nothing was inspected: no part was found" in said
    assert "were not OK" not in said and str(clip.parent / "out" / "index.html") in said
    assert run_command(["replay", str(clip), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["frames"] == 3


@pytest.mark.parametrize("recipe", ["cookies", "screws", "ball-screw"])
def test_a_recipe_for_another_model_says_so_and_so_does_its_refusal(
    clip: Path, capsys: pytest.CaptureFixture[str], recipe: str
) -> None:
    path = Path(__file__).resolve().parents[2] / "models" / "recipes" / f"{recipe}.toml"
    assert path.read_text(encoding="utf-8").startswith("# NEEDS ANOTHER MODEL")
    assert run_command(["replay", str(clip), "--recipe", str(path)]) == 78
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "or a model that has it (--model)" in err


@pytest.mark.parametrize("words", [["--recipe", "cookies"], ["--recipe", "metal-plate-triggered"], ["--model", "none"]])
def test_a_replay_that_is_refused_leaves_the_earlier_one_as_it_is(
    clip: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    if words[0] == "--recipe":
        words = ["--recipe", str(Path(__file__).resolve().parents[2] / "models" / "recipes" / f"{words[1]}.toml")]
    out = clip.parent / "out"
    assert run_command(["replay", str(clip), "--out", str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert run_command(["replay", str(clip), "--out", str(out), *words]) != 0
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    "words", [["--out", "{}"], ["--annotate", "{}/a.mp4"], ["--out", "{}", "--annotate", "{}/a.mp4"]]
)
def test_a_place_where_this_user_may_not_look_is_one_line(
    clip: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    closed, stat, mkdir = clip.parent / "closed", Path.stat, Path.mkdir

    def not_permitted(path: Path) -> None:
        if path.is_relative_to(closed):
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", lambda path, **how: not_permitted(path) or stat(path, **how))
    monkeypatch.setattr(Path, "mkdir", lambda path, **how: not_permitted(path) or mkdir(path, **how))
    assert run_command(["replay", str(clip), *(word.format(closed / "sub") for word in words)]) in (1, 64)
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "cannot be written: Permission denied" in err
