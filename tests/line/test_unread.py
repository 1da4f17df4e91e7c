"""Nobody reads what the daemon prints, both of its pipes are full: the line is answered as ever, and the end comes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pymodbus", reason="needs the extra `line`")

from tests.edge.line.modbus_ends import WAIT_S, running, wait_for
from tests.full_pipe import full_pipe
from tests.line.test_modbus_line import CONFIG, RECIPE, SIDES, Plant, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
PARTS = 12
ENVIRON = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'edge'}"}


def judged(plant: Plant, process: subprocess.Popen[bytes]) -> Counter[str | None]:
    """What PARTS parts were answered in time; None: nothing."""
    wait_for(lambda: plant.program.ready or process.poll() is not None, "Ready")
    assert process.poll() is None
    wait_for(lambda: plant.part().kind, "an answer")  # the PLC's memory may hold a Ready from before
    return Counter(plant.part().kind for _ in range(PARTS))


@pytest.mark.parametrize(("side", "more"), SIDES)
def test_every_part_is_judged_though_nobody_reads_log_or_verdicts(
    tmp_path: Path, tiny_model: Path, side: str, more: str
) -> None:
    port = free_port()
    plant = Plant(side, port)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    config = CONFIG.replace("fps=50", "fps=20").format(
        folder=tmp_path, model=tiny_model, side=side, port=port, more=more
    )
    (tmp_path / "edge.toml").write_text(config)
    command = [sys.executable, "-m", "tests.line.spotted_line", "--config", str(tmp_path / "edge.toml")]
    with full_pipe() as out, full_pipe() as err:
        process = subprocess.Popen(command, stdout=out.write_end, stderr=err.write_end, cwd=ROOT, env=ENVIRON)
        try:
            for _ in range(2):  # the PLC goes away and comes back
                with running(plant.run):
                    kinds = judged(plant, process)
                    assert kinds[None] == 0, kinds
                    assert kinds["OK"] < PARTS, "nothing was printed"
                wait_for(lambda: status(tmp_path / "state")["alarms"], "the daemon sees that the PLC has gone")
            (line,) = status(tmp_path / "state")["lines"]
            assert line["missed_deadlines"] == 0
            assert not line["unknown"].keys() & {"deadline", "overrun"}, line["unknown"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()
            process.wait(WAIT_S)


def status(state_dir: Path) -> dict[str, Any]:
    asked = [sys.executable, "-m", "edge_inspect", "status", "--state", str(state_dir), "--json"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=WAIT_S, check=True, env=ENVIRON)
    told: dict[str, Any] = json.loads(done.stdout)
    return told
