"""The benchmark measures what it says and leaves nothing behind. No times are judged here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from edge_inspect.cli import run_command
from edge_inspect.cli.bench_side import Side, percentiles, take_turns
from edge_inspect.errors import Refusal
from tests.sim.tiny_model import write_tiny_package


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write_tiny_package(tmp_path / "tiny")


def bench(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code = run_command(["bench", *arguments, "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    result: dict[str, Any] = json.loads(printed.out.splitlines()[-1])
    return result


def workers_left() -> list[str]:
    """Processes of ours; a database that another test of this process shares is none."""
    names = [child.name() for child in psutil.Process().children(recursive=True)]
    return [name for name in names if name != "postgres"]


def test_engine_row_holds_bare_and_whole_pipeline(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = bench(
        capsys, "--model", str(package), "--provider", "cpu", "--size", "640x360", "--rounds", "2", "--frames", "5"
    )
    (row,) = result["engine"]
    assert (row["provider"], row["shape"], row["file"]) == ("cpu", "96x160", "model.onnx")
    for way in ("bare_ms", "pipeline_ms", "whole_ms", "own_ms", "inference_ms"):
        assert 0 < row[way]["p50"] <= row[way]["p99"] <= row[way]["max"]
    assert row["own_ms"]["p50"] < row["pipeline_ms"]["p50"]
    assert row["pipeline_over_bare"] == pytest.approx(row["bare_ms"]["p50"] / row["pipeline_ms"]["p50"], rel=1e-2)
    assert workers_left() == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--shape", "big"], "--shape big"),
        (["--size", "10x10"], "--size 10x10"),
        (["--precision", "fp8"], "--precision fp8"),
        (["--provider", "gpu"], "--provider gpu"),
        (["--peers"], "--peer-weights"),
    ],
)
def test_wrong_option_is_a_usage_error(
    package: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["bench", "--model", str(package), *arguments]) == 64
    assert says in capsys.readouterr().err


ECHO = """
import json, sys
print("chatter of some library")
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    order = json.loads(line)
    if order["do"] == "die":
        sys.exit("no more memory")
    print(json.dumps({"frame": [len(order["do"])] * order["frames"]}), flush=True)
"""


def test_sides_take_turns_and_every_sample_is_kept() -> None:
    with Side("a", [sys.executable, "-c", ECHO]) as a, Side("b", [sys.executable, "-c", ECHO]) as b:
        samples = take_turns([(a, "one"), (b, "three")], rounds=3, frames=4)
        assert psutil.Process(a.pid).status() == psutil.STATUS_STOPPED
    assert samples == {("a", "one"): {"frame": [3] * 12}, ("b", "three"): {"frame": [5] * 12}}


def test_side_that_dies_tells_its_last_words() -> None:
    with (
        Side("frail", [sys.executable, "-c", ECHO]) as side,
        pytest.raises(Refusal, match="frail ended: no more memory"),
    ):
        side.ask("die", 1)


def test_side_that_cannot_start_tells_why() -> None:
    with pytest.raises(Refusal, match=r"ended: .*nonsense"):
        Side("none", [sys.executable, "-c", "import nonsense"])


def test_percentiles_are_of_all_samples() -> None:
    assert percentiles([float(n) for n in range(1, 101)]) == {"p50": 51.0, "p90": 91.0, "p99": 100.0, "max": 100.0}


@pytest.mark.slow
def test_line_row_holds_the_way_from_trigger_to_register(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pymodbus", reason="needs the extra `line`")
    result = bench(capsys, "line", "--model", str(package), "--provider", "cpu", "--triggers", "10")["line"]
    assert result["triggers"] == 10 and 0 < result["judged"] <= 10
    assert result["provider"] == "cpu"
    for name in ("trigger_to_written_ms", "minus_inference_ms", "inference_ms"):
        spread = result[name]
        assert 0 < spread["p50"] <= spread["p99"] <= spread["p999"] <= spread["max"]
    assert workers_left() == []


def test_percentiles_of_a_line_that_leave_out_too_many_parts_are_refused() -> None:
    from edge_inspect.cli.bench_plc import check_enough_judged

    check_enough_judged({"triggers": 600, "judged": 540, "unknown": {"deadline": 60}})
    with pytest.raises(Refusal, match=r"only 539 of 600 parts were judged \(deadline 40, overrun 21\)"):
        check_enough_judged({"triggers": 600, "judged": 539, "unknown": {"overrun": 21, "deadline": 40}})
