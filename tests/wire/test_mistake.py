"""What does not fit is told in one bounded line, however it was made."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from edge_wire.fields import Block
from edge_wire.mistake import MOST_KEY, MOST_WORDS, first_mistake
from edge_wire.release import Audience, ReleasedModel


def mistake(content: str, block: type[Block] = Audience) -> str:
    with pytest.raises(ValidationError) as caught:
        block.model_validate_json(content)
    return first_mistake(caught.value, "audience")


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"sites": ["north", 7]}, "sites.1: Input should be a valid string"),
        ({"halls": ["a"]}, "halls: Extra inputs are not permitted"),
        (["north"], "audience: Input should be an object"),
    ],
)
def test_the_key_and_what_is_wrong_with_it(found: Any, told: str) -> None:
    assert mistake(json.dumps(found)) == told


def test_a_key_of_any_length_makes_no_long_line() -> None:
    assert len(mistake(json.dumps({"x" * 9_999: 1}))) <= MOST_KEY + len(": ") + MOST_WORDS


@pytest.mark.parametrize("version", ["banana", "1.0", "01.0.0", "1.0.0+build" + "7" * 40])
def test_a_version_that_is_none_is_told_what_one_is(version: str) -> None:
    found = {"name": "tiny", "version": version, "digest": "sha256:" + "0" * 64}
    assert mistake(json.dumps(found), ReleasedModel) == (
        f"version: found '{version[:40]}', allowed: three numbers without leading zeros, e.g. 1.1.0, or 1.1.0-rc.1; "
        "up to 61 characters"
    )
