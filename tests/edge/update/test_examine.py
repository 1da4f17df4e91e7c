"""What a candidate must answer before it sees the line; here in this process, without limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_inspect.errors import BadModel
from edge_inspect.update import probe_costs
from edge_inspect.update.examine import Request, examine
from edge_wire.manifest import machine_kind
from tests.edge.update import packages
from tests.edge.update.packages import package

pytest.importorskip("onnxruntime", reason="no runtime is installed (extra `cpu`)")

SURELY_MS = 1e9
"""A budget that no machine misses."""


@pytest.fixture(autouse=True)
def few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_costs, "TIMED_RUNS", 9)


@pytest.fixture
def active(tmp_path: Path) -> Path:
    return package(tmp_path / "active")


def asked(folder: Path, active: Path | None = None, **how: Any) -> Request:
    return Request(folder, golden_of=active, **{"provider": "cpu", "threads": 1, "latency_factor": 50.0} | how)


def refusal(request: Request) -> str:
    with pytest.raises(BadModel) as refused:
        examine(request)
    assert "\n" not in str(refused.value)
    return refused.value.code


@pytest.mark.parametrize("layout", ["raw", "end2end"])
def test_good_candidate_is_fit_and_says_what_it_costs(layout: str, active: Path, tmp_path: Path) -> None:
    probed = examine(asked(package(tmp_path / "candidate", layout=layout), active, sources=((192, 320), (96, 160))))
    assert (probed.provider, probed.variants, probed.remark) == ("cpu", ("model.onnx",), "")
    assert 0 < probed.latency_p50_ms <= probed.latency_p99_ms
    assert probed.active_p50_ms > 0


def test_first_model_of_all_has_nothing_beside_it(tmp_path: Path) -> None:
    probed = examine(asked(package(tmp_path / "candidate")))
    assert probed.active_p50_ms == 0
    assert "nothing to compare with" in probed.remark


def test_broken_old_model_does_not_keep_a_new_one_away(active: Path, tmp_path: Path) -> None:
    (active / "model.onnx").write_bytes(b"rot")
    probed = examine(asked(package(tmp_path / "candidate"), active))
    assert "size-mismatch" in probed.remark


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("non-finite", packages.nan),
        ("constant-output", packages.constant),
        ("too-many-boxes", packages.everything_everywhere),
        ("boxes-outside", packages.far_away),
        ("known-answer", packages.forget(0)),
        ("known-answer", packages.swap_classes),
        ("known-answer", packages.after("Mul", 0.7)),
        ("onnx-operator", packages.after("Det")),
        ("output-dtype", packages.half_ends),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_candidate_is_refused_with_its_code(code: str, change: Any, active: Path, tmp_path: Path) -> None:
    assert refusal(asked(package(tmp_path / "candidate", change), active)) == code


@pytest.mark.parametrize(
    "change", [packages.forget(0), packages.swap_classes], ids=["forgets the class", "swaps the classes"]
)
def test_pictures_made_to_fit_do_not_help(change: Any, active: Path, tmp_path: Path) -> None:
    """Its own golden pictures expect just what it finds: the active package's know better."""
    candidate = package(tmp_path / "candidate", change, golden=[])
    assert refusal(asked(candidate, active)) == "golden-of-active"
    assert examine(asked(candidate)).variants, "alone it would pass"


def test_slower_than_the_model_that_judges_is_refused(active: Path, tmp_path: Path) -> None:
    slow = package(tmp_path / "candidate", packages.heavy(8))
    assert refusal(asked(slow, active, latency_factor=1.5)) == "probe-latency"


@pytest.mark.parametrize(("own", "refused"), [({}, True), ({"value": SURELY_MS, "how": "loose"}, True)])
def test_over_its_own_budget_is_refused(own: dict[str, Any], refused: bool, tmp_path: Path) -> None:
    kind = machine_kind("cpu", 1)
    active = package(tmp_path / "active", latency_budget_ms={kind: own} if own else {})
    tight = {kind: {"value": 1e-6, "how": "tight"}}
    assert refusal(asked(package(tmp_path / "candidate", latency_budget_ms=tight), active)) == "probe-latency"


def test_machine_on_which_the_old_model_misses_its_budget_too_refuses_nothing_by_it(tmp_path: Path) -> None:
    tight = {machine_kind("cpu", 1): {"value": 1e-6, "how": "tight"}}
    active = package(tmp_path / "active", latency_budget_ms=tight)
    assert examine(asked(package(tmp_path / "candidate", latency_budget_ms=tight), active)).variants


def test_more_memory_than_the_manifest_says_is_refused(
    active: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_costs, "MEMORY_SLACK_BYTES", -1)
    budget = {machine_kind("cpu", 1): {"value": -1.0, "how": "tight"}}
    assert refusal(asked(package(tmp_path / "candidate", memory_budget_bytes=budget), active)) == "probe-memory"


def test_provider_that_is_not_there_is_refused(active: Path, tmp_path: Path) -> None:
    assert refusal(asked(package(tmp_path / "candidate"), active, provider="tensorrt")) == "probe-provider"
