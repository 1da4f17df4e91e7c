"""Nothing leaves the box but what the recipe allows: not even the fact that a library was imported."""

from __future__ import annotations

import subprocess
import sys


def test_looking_for_runtimes_does_not_load_openvinos_telemetry() -> None:
    code = (
        "import sys, threading\n"
        "from edge_inspect.inference.providers import survey\n"
        "survey()\n"
        "print('openvino_telemetry' in sys.modules, threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["False", "1"]
