"""What a candidate must answer before it sees the line; here in this process, without limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_inspect.errors import BadModel
from edge_inspect.inference.package import ModelPackage
from edge_inspect.update import probe_costs
from edge_inspect.update.examine import Request, examine, load
from edge_inspect.update.probe_costs import Spread, check_latency
from edge_wire.manifest import machine_kind
from tests.edge.update import packages
from tests.edge.update.packages import package

pytest.importorskip("onnxruntime", reason="no runtime is installed (extra `cpu`)")


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


def test_budgets_for_another_machine_are_told_not_passed_over(active: Path, tmp_path: Path) -> None:
    elsewhere, here = {"cpu-99-cores": {"value": 1e-6, "how": "there"}}, machine_kind("cpu", 1)
    probed = examine(asked(package(tmp_path / "candidate", latency_budget_ms=elsewhere), active))
    assert probed.remark == f"its manifest has budgets for cpu-99-cores and not for {here}: they were not checked"
    both = elsewhere | {here: {"value": 1e6, "how": "here"}}
    assert examine(asked(package(tmp_path / "other", latency_budget_ms=both), active)).remark == ""


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


def test_over_its_own_budget_is_refused(active: Path, tmp_path: Path) -> None:
    tight = {machine_kind("cpu", 1): {"value": 1e-6, "how": "tight"}}
    assert refusal(asked(package(tmp_path / "candidate", latency_budget_ms=tight), active)) == "probe-latency"


@pytest.mark.parametrize(
    ("mine", "theirs", "code"),
    [
        (Spread(40, 50, 35), Spread(40, 50, 35), ""),
        (Spread(90, 120, 80), Spread(30, 40, 28), "probe-latency"),
        (Spread(40, 120, 30), Spread(30, 35, 28), "probe-latency"),
        (Spread(40, 120, 30), Spread(30, 90, 20), ""),
        (Spread(60, 90, 50), Spread(), ""),
        (Spread(60, 120, 50), Spread(), "probe-latency"),
    ],
    ids=["as fast", "three times slower", "over its budget", "over it on a busy machine", "alone", "alone, over it"],
)
def test_load_is_told_from_slowness(mine: Spread, theirs: Spread, code: str, tmp_path: Path) -> None:
    budget = {machine_kind("cpu", 1): {"value": 100.0, "how": "told"}}
    loaded = load(ModelPackage.load(package(tmp_path / "candidate", latency_budget_ms=budget)), asked(Path()), None)
    try:
        check_latency(mine, theirs, loaded, 2.0)
        said = ""
    except BadModel as err:
        said = err.code
    finally:
        loaded.engine.close()
    assert said == code


def test_more_memory_than_the_manifest_says_is_refused(
    active: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_costs, "MEMORY_SLACK_BYTES", -1)
    budget = {machine_kind("cpu", 1): {"value": -1.0, "how": "tight"}}
    assert refusal(asked(package(tmp_path / "candidate", memory_budget_bytes=budget), active)) == "probe-memory"


def test_provider_that_is_not_there_is_refused(active: Path, tmp_path: Path) -> None:
    assert refusal(asked(package(tmp_path / "candidate"), active, provider="tensorrt")) == "probe-provider"
