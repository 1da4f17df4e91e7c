"""`replay --out` into a folder that is there: what an earlier replay left goes, what is of others stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_inspect.cli.replay_folder import WRITTEN, take_over
from edge_inspect.errors import StorageFailing, Usage

OTHERS = ("notes.txt", "parts/mine.jpg", "parts/camera-1.jpg", "parts/camera-000001.png", "clip.mp4")


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_pictures_of_an_earlier_replay_are_gone_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path, *WRITTEN[:-1], *OTHERS, "parts/camera-000007.jpg", "parts/camera-1234567.jpg")
    take_over(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"parts.jsonl", "report.jsonl", *OTHERS}


@pytest.mark.parametrize("name", ["index.html", "summary.json", "parts.jsonl", "parts/camera-000001.jpg"])
def test_a_folder_that_holds_such_a_name_of_others_is_refused(tmp_path: Path, name: str) -> None:
    fill(tmp_path, name)
    with pytest.raises(Usage, match="not of an earlier replay"):
        take_over(tmp_path)
    assert (tmp_path / name).read_bytes() == b"x"


def test_a_folder_with_other_things_is_fine(tmp_path: Path) -> None:
    fill(tmp_path, "clip.mp4")
    take_over(tmp_path)
    take_over(tmp_path / "new" / "folder")
    assert (tmp_path / "clip.mp4").exists() and (tmp_path / "new" / "folder").is_dir()


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    fill(tmp_path, "file")
    with pytest.raises(StorageFailing, match="cannot be written"):
        take_over(tmp_path / "file")
