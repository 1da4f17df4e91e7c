"""What a person is told of bytes or values that do not fit one of our blocks: the first mistake, in one line.

Who reads settings that people write says more: `edge_inspect.toml_model`, `cloud_inspect.settings`.

    except ValidationError as err:
        raise BadRelease("rollout-refused", f"{path}: {first_mistake(err, 'rollout')}") from err
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from edge_wire.release import VERSION_PATTERN

MOST_KEY, MOST_WORDS = 120, 300
"""What was sent may hold keys of any length, and they come back in the error."""
MOST_FOUND = 40
_PATTERNS = {VERSION_PATTERN: "three numbers without leading zeros, e.g. 1.1.0, or 1.1.0-rc.1; up to 61 characters"}
"""Patterns that nobody reads, in words."""


def first_mistake(err: ValidationError, whole: str) -> str:
    """`audience.sites.0: String should match ...`: key and what is wrong. `whole` stands where no key is to blame."""
    first = err.errors(include_url=False)[0]
    key = ".".join(str(step) for step in first["loc"])[:MOST_KEY] or whole
    return f"{key}: {in_words(first)}"


def in_words(error: Mapping[str, Any]) -> str:
    """What is wrong, of one of pydantic's errors with its context and input."""
    if (words := _PATTERNS.get(error.get("ctx", {}).get("pattern", ""))) is not None:
        return f"found {str(error['input'])[:MOST_FOUND]!r}, allowed: {words}"
    return str(error["msg"])[:MOST_WORDS]
