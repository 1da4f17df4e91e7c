"""Triggers and answers as JSON, the same words over a socket and over MQTT. Pure functions."""

from __future__ import annotations

import json
from typing import Any

from edge_inspect.line.protocol import MOST_SEQUENCE, Answer, Trigger


def answer_fields(answer: Answer) -> dict[str, Any]:
    """An answer as the outside reads it; `latency_ms` runs from the trigger's arrival here to the verdict."""
    return {
        "seq": answer.sequence,
        "verdict": answer.kind,
        "reason": answer.reason,
        "part": answer.part,
        "latency_ms": round((answer.answered_ns - answer.trigger.at_ns) / 1e6, 3),
    }


def trigger_from(sequence: object, encoder: object, *, at_ns: int, source: str) -> Trigger:
    """A trigger of what was sent. Raises ValueError: which field, and what is allowed."""
    if not _is_whole(sequence, 0, MOST_SEQUENCE):
        raise ValueError(f"sequence number: allowed: a whole number of 0..{MOST_SEQUENCE}")
    if encoder is not None and not _is_whole(encoder, -(2**63), 2**63 - 1):
        raise ValueError("encoder: allowed: a whole number of 64 bits")
    return Trigger(sequence, at_ns, source, encoder)  # type: ignore[arg-type]


def parsed(text: bytes, allowed: str) -> Any:
    """JSON of any kind. Raises ValueError, one line, for anything else."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as err:
        raise ValueError(f"not JSON; allowed: {allowed}") from err


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
