"""A campaign's short form: the command itself with small numbers, and what its last line says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(campaign: str, *arguments: str, timeout_s: float = 900) -> dict[str, Any]:
    """The JSON object that `python -m tests.campaign.<campaign>` ends with; skips where it cannot run here."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.campaign.{campaign}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    print(done.stderr, file=sys.stderr)
    assert done.stdout.strip(), done.stderr[-3000:]
    last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if reason := last.get("skipped"):
        pytest.skip(str(reason))
    return last
