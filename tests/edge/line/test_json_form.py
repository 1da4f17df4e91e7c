"""Whatever is sent as a trigger: a trigger, or one line that says what is allowed."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from edge_inspect.line.json_form import parsed, trigger_from
from edge_inspect.line.protocol import MOST_SEQUENCE
from edge_inspect.line.socket import MOST_LINE_BYTES, request_from

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["trigger", "encoder", "x"]), inner),
    max_leaves=8,
)


@given(st.binary(max_size=MOST_LINE_BYTES) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_line_is_a_request_or_one_line_of_what_is_allowed(line: bytes) -> None:
    try:
        request = request_from(line)
    except ValueError as err:
        assert "allowed" in str(err) and "\n" not in str(err)
    else:
        assert set(request) in ({"trigger"}, {"trigger", "encoder"}, {"listen"}, {"status"})


@given(JSON, JSON)
def test_any_number_is_a_trigger_or_refused(sequence: object, encoder: object) -> None:
    try:
        trigger = trigger_from(sequence, encoder, at_ns=7, source="here")
    except ValueError as err:
        assert "allowed" in str(err)
    else:
        assert type(trigger.sequence) is int and 0 <= trigger.sequence <= MOST_SEQUENCE
        assert trigger.encoder is None or type(trigger.encoder) is int


def test_depth_and_size_of_json_are_no_crash() -> None:
    for text in (b"[" * 1_000_000, b"9" * 1_000_000, b'{"a":' * 100_000, b"\xef\xbb\xbf1", b"1e999", b"-0"):
        try:
            parsed(text, "numbers")
        except ValueError as err:
            assert "allowed: numbers" in str(err)
