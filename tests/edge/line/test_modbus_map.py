"""The register map: no two things in one place, and the page that PLC engineers read is in step with it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from edge_inspect.line import desk
from edge_inspect.line import modbus_map as at
from edge_inspect.line.numbers import REPEATED

PAGE = Path(__file__).resolve().parents[3] / "docs" / "line-modbus.md"


def test_page_shows_the_map_as_it_is() -> None:
    assert at.tables() in PAGE.read_text(), "its tables: python -m edge_inspect.line.modbus_map"


@pytest.mark.parametrize("table", [at.COMMAND_TABLE, at.EDGE_TABLE, at.RESULT_TABLE])
def test_entries_follow_each_other_without_gap_or_overlap(table: tuple[at.Entry, ...]) -> None:
    for entry, following in itertools.pairwise(table):
        assert entry.offset + entry.words == following.offset


def test_whole_edge_block_fits_one_read_and_one_write() -> None:
    assert at.EDGE_WORDS <= 123
    assert at.COMMAND_WORDS <= at.EDGE


def test_each_reason_has_one_number_and_each_number_one_reason() -> None:
    assert len(set(at.REASONS.values())) == len(at.REASONS)
    for code, reason in at.REASONS.items():
        assert at.reason_of(at.reason_code(reason)) == reason
        assert code not in (at.NO_REASON, at.OTHER_REASON)
    assert at.reason_of(at.reason_code("never heard of")) == "other"


def test_every_reason_of_the_desk_has_a_number() -> None:
    for reason in (desk.CAMERA_LOST, desk.DEADLINE, desk.NO_FRAME, desk.NOT_READY, desk.OVERRUN, REPEATED):
        assert at.reason_code(reason) != at.OTHER_REASON


@pytest.mark.parametrize("low_word_first", [False, True])
@pytest.mark.parametrize("number", [0, 1, 0xFFFF, 0x10000, 0x12345678, 2**32 - 1])
def test_numbers_survive_two_registers(number: int, low_word_first: bool) -> None:
    assert at.join(*at.split(number, low_word_first), low_word_first) == number
