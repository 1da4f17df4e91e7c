"""The history on disk: a chain of lines, and which of them is not as it was written."""

from __future__ import annotations

import json
import os

import pytest

from edge_inspect.update.history import read_history
from edge_inspect.update.store import look
from tests.edge.update.box import Box, history_of, judging, lines_of, updated
from tests.edge.update.test_store import spoil


@pytest.fixture
def written(box: Box) -> Box:
    updated(box)
    updated(box, "c", 2)
    assert len(lines_of(box)) == 5
    return box


def test_a_history_as_written_verifies(written: Box) -> None:
    state, checked = look(written.state_dir)
    assert not checked.broken and not checked.torn_bytes and len(checked.entries) == 5
    assert state is not None and state.history.lines == 5
    assert [(e.event, e.version) for e in checked.entries] == [
        ("activated", "1.0.0"), ("activated", "1.1.0"), ("kept", "1.1.0"), ("activated", "1.2.0"), ("kept", "1.2.0"),
    ]  # fmt: skip


@pytest.mark.parametrize("line", range(5))
def test_a_changed_line_is_named(written: Box, line: int) -> None:
    lines = lines_of(written)
    entry = json.loads(lines[line])
    entry["released_by"] = "somebody else"
    lines[line] = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
    history_of(written).write_bytes(b"".join(lines))
    (broken,) = look(written.state_dir)[1].broken
    assert broken.startswith(f"line {line + 1}: is not the line that was written")


def test_where_it_may_have_been_either_of_two_lines_both_are_named(written: Box) -> None:
    """Line 5 does not follow line 4, and nobody remembers how line 5 was written."""
    lines = lines_of(written)
    lines[3] = lines[3].replace(b'"by":""', b'"by":"eve"')
    history_of(written).write_bytes(b"".join(lines))
    checked = read_history(history_of(written))
    assert checked.broken == (
        "line 4 or 5: is not the line that was written: line 5 does not follow line 4 as it stands",
    )
    assert checked.doubtful == {4, 5}


@pytest.mark.parametrize("line", range(5))
def test_only_the_line_that_was_left_out_is_missed(written: Box, line: int) -> None:
    lines = lines_of(written)
    del lines[line]
    history_of(written).write_bytes(b"".join(lines))
    assert len(look(written.state_dir)[1].broken) == 1


@pytest.mark.parametrize("line", range(5))
def test_a_line_that_was_taken_out_is_seen(written: Box, line: int) -> None:
    lines = lines_of(written)
    del lines[line]
    history_of(written).write_bytes(b"".join(lines))
    assert look(written.state_dir)[1].broken[0].startswith(f"line {min(line + 1, 5)}:")


def test_lines_that_changed_places_and_garbage_are_seen(written: Box) -> None:
    lines = lines_of(written)
    history_of(written).write_bytes(b"".join([lines[0], lines[2], lines[1], *lines[3:]]))
    assert look(written.state_dir)[1].broken[0].startswith("line 2:")
    history_of(written).write_bytes(b"".join([lines[0], b"hello\n", *lines[1:]]))
    assert look(written.state_dir)[1].broken[0] == "line 2: is no entry"


def test_half_a_line_after_a_power_cut_is_told_and_written_over(written: Box) -> None:
    with history_of(written).open("ab") as stream:
        stream.write(lines_of(written)[-1][:40])
    _, checked = look(written.state_dir)
    assert not checked.broken and checked.torn_bytes == 40
    spoil(written.folder_of(written.digests["c"]))
    assert judging(written) == "b"
    written.end()
    _, checked = look(written.state_dir)
    assert not checked.broken and not checked.torn_bytes and len(checked.entries) == 6


def test_a_history_that_was_changed_does_not_stop_anything(written: Box) -> None:
    os.truncate(history_of(written), 100)
    updater = written.start()
    assert [code for code, _ in updater.alarms()] == ["model-history"]
    assert read_history(history_of(written)).torn_bytes in (0, 100)
