"""What commands print: people read stderr and tables; machines read the last line of stdout, one JSON object."""

from __future__ import annotations

import json
import sys
from typing import Any

from edge_wire.stdout import takes_all_letters

emitted = False
"""Whether this process has printed its object."""


def emit(result: dict[str, Any]) -> None:
    """Print `result` as the last line on stdout: one JSON object, NaN refused."""
    global emitted
    sys.stdout.flush()
    text = json.dumps(result, allow_nan=False, ensure_ascii=not takes_all_letters(sys.stdout))
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
    emitted = True


def size(number_bytes: float) -> str:
    """1536 -> `1.5 kB`"""
    for unit in ("B", "kB", "MB", "GB"):
        if number_bytes < 1000:
            return f"{number_bytes:.0f} {unit}" if unit == "B" else f"{number_bytes:.1f} {unit}"
        number_bytes /= 1000
    return f"{number_bytes:.1f} TB"
