"""What a fetcher of its own leaves for the daemon to tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_inspect.errors import InspectError, SourceGone, StorageFailing, Untrusted
from edge_inspect.update.trouble import NAME, told, trouble


def failing(folder: Path, err: InspectError) -> None:
    def look() -> None:
        raise err

    with pytest.raises(type(err)):
        told(folder, look)()


def test_last_look_is_told_until_one_ends_well(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    assert trouble(folder) is None
    failing(folder, Untrusted("metadata-expired", "https://models: snapshot\nhas expired"))
    assert trouble(folder) == ("metadata-expired", "https://models: snapshot has expired")
    failing(folder, SourceGone("stopped", "the box goes down"))
    assert trouble(folder) == ("metadata-expired", "https://models: snapshot has expired")
    failing(folder, StorageFailing("disk"))
    assert trouble(folder) == ("storage-failing", "disk")
    told(folder, lambda: None)()
    assert trouble(folder) is None and list(folder.iterdir()) == []


def test_same_trouble_is_written_once(tmp_path: Path) -> None:
    failing(tmp_path, SourceGone("unreachable", "no network"))
    first = (tmp_path / NAME).stat().st_ino
    failing(tmp_path, SourceGone("unreachable", "no network"))
    assert (tmp_path / NAME).stat().st_ino == first


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff", b'{"code": "A B", "why": ""}', b"[" * 3000, b'{"code":1,"why":2}']
)
def test_nonsense_is_no_trouble(content: bytes, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(content)
    assert trouble(tmp_path) is None
