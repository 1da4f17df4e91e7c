"""The journal lies in memory where that outlives a kill, the next life finds it, and it is never somebody else's."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge_inspect.delivery import told_places
from edge_inspect.delivery.told import FILE_NAME, NoJournal, ToldJournal
from edge_inspect.delivery.told_places import open_journal, told_paths
from tests.edge.delivery.reports import DEVICE
from tests.edge.delivery.test_told import note, outline


@pytest.fixture
def shm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "shm"
    folder.mkdir()
    folder.chmod(0o1777)
    (tmp_path / "state").mkdir()
    monkeypatch.setattr(told_places, "SHARED_MEMORY", folder)
    yield folder


def paths(tmp_path: Path, **environ: str) -> list[Path]:
    return told_paths(environ, tmp_path / "state", memory_outlives=True)


def test_the_best_place_comes_first_and_the_disk_last(tmp_path: Path, shm: Path) -> None:
    found = paths(tmp_path, RUNTIME_DIRECTORY="/run/edge-inspect:/run/more", XDG_RUNTIME_DIR="/run/user/7")
    assert found[0] == Path("/run/edge-inspect") / FILE_NAME
    assert [path.parent for path in found[1:]] == [Path("/run/user/7"), shm, tmp_path / "state"]
    assert [path.parent for path in paths(tmp_path)] == [shm, tmp_path / "state"]
    in_a_container = told_paths({"XDG_RUNTIME_DIR": "/run/user/7"}, tmp_path / "state", memory_outlives=False)
    assert in_a_container == [tmp_path / "state" / FILE_NAME]


def test_each_state_folder_has_its_own_file_and_finds_it_again(tmp_path: Path, shm: Path) -> None:
    mine, again = paths(tmp_path)[0], told_paths({}, tmp_path / "state" / ".." / "state", memory_outlives=True)[0]
    assert mine == again != told_paths({}, tmp_path / "other", memory_outlives=True)[0]
    with closing(open_journal(paths(tmp_path), DEVICE)) as journal:
        assert journal.path.parent == shm
        assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600


KILLED = """
import os, signal, sys
from pathlib import Path
from edge_inspect.delivery.told_places import open_journal
from tests.edge.delivery.test_told import DEVICE, note, outline
journal = open_journal([Path(word) for word in sys.argv[1:]], DEVICE)
journal.introduce(outline())
note(journal, 7)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_told_before_a_kill_is_found_by_the_next_life(tmp_path: Path, shm: Path) -> None:
    command = [sys.executable, "-c", KILLED, *map(str, paths(tmp_path))]
    assert subprocess.run(command, timeout=60, check=False).returncode == -9
    with closing(open_journal(paths(tmp_path), DEVICE)) as journal:
        assert [left.report.part.number for left in journal.left] == [7]


def test_what_lies_where_an_earlier_life_had_to_write_is_found_then_the_best_place_is_taken(
    tmp_path: Path, shm: Path
) -> None:
    with closing(open_journal([tmp_path / "state" / FILE_NAME], DEVICE)) as journal:
        journal.introduce(outline())
        note(journal, 7)
    with closing(open_journal(paths(tmp_path), DEVICE)) as journal:
        assert [left.report.part.number for left in journal.left] == [7]
        journal.clear(left.number for left in journal.left)
    with closing(open_journal(paths(tmp_path), DEVICE)) as journal:
        assert journal.path.parent == shm


def others(path: Path) -> None:
    path.touch(0o600)
    path.chmod(0o666)


def linked(path: Path) -> None:
    path.touch(0o600)
    os.link(path, path.with_name("second"))


@pytest.mark.parametrize(
    "make", [others, linked, Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.with_name("elsewhere"))]
)
def test_what_is_not_ours_alone_is_not_touched_and_the_next_place_taken(
    tmp_path: Path, shm: Path, make: Callable[[Path], None]
) -> None:
    first = paths(tmp_path)[0]
    make(first)
    before = first.lstat()
    with closing(open_journal(paths(tmp_path), DEVICE)) as journal:
        assert journal.path == tmp_path / "state" / FILE_NAME
    assert (first.lstat().st_mode, first.lstat().st_size) == (before.st_mode, before.st_size)
    assert not (shm / "elsewhere").exists()


def test_a_file_of_another_user_is_not_touched(tmp_path: Path, shm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(open_journal(paths(tmp_path), DEVICE)) as journal:
        ours = journal.path
        journal.introduce(outline())
        note(journal, 7)
    stranger = os.geteuid() + 1
    shm_owner = shm.stat()
    monkeypatch.setattr(os, "geteuid", lambda: stranger)
    monkeypatch.setattr(Path, "stat", lambda path, **_: os.stat_result((*shm_owner[:4], stranger, *shm_owner[5:])))
    with pytest.raises(NoJournal, match="somebody else"):
        ToldJournal(ours, device=DEVICE)


def test_in_a_shared_place_nothing_stays_behind_a_good_end(tmp_path: Path, shm: Path) -> None:
    with closing(open_journal(paths(tmp_path), DEVICE)) as journal:
        journal.introduce(outline())
        note(journal, 7)
    assert len(list(shm.iterdir())) == 1
    with closing(open_journal(paths(tmp_path), DEVICE)) as journal:
        journal.clear(left.number for left in journal.left)
    assert list(shm.iterdir()) == []
    with closing(open_journal([tmp_path / "state" / FILE_NAME], DEVICE)) as journal:
        assert journal.path.exists()
    assert journal.path.exists()


def test_no_place_at_all_names_each(tmp_path: Path, shm: Path) -> None:
    nowhere = [tmp_path / "one" / "told", tmp_path / "two" / "told"]
    with pytest.raises(NoJournal, match=r"one/told.*two/told"):
        open_journal(nowhere, DEVICE)
