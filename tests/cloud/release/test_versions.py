"""Plant and device take the same version for the older one, and neither takes what is no version."""

from __future__ import annotations

import random
from contextlib import nullcontext
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError
from tuf.api.metadata import Targets

from cloud_inspect.errors import BadRelease
from cloud_inspect.release.repository import utc_now
from cloud_inspect.release.rollouts import make_wish, refuse_unfit
from edge_inspect.inference import package
from edge_inspect.update.choose import Names, Version, consider
from edge_inspect.update.stages import Outcome
from edge_inspect.update.state import Floor, State
from edge_wire.release import ModelVersion, ReleasedModel, Rollout, version_order

ORDERED = (
    "0.9.9", "1.0.0-0", "1.0.0-1", "1.0.0-2", "1.0.0-10", "1.0.0-99999999999999999999", "1.0.0--", "1.0.0-0a",
    "1.0.0-RC", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-rc", "1.0.0-rc.2", "1.0.0-rc.10",
    "1.0.0-rc.x", "1.0.0", "1.0.1-1", "1.0.1", "1.9.0", "1.10.0", "10.0.0", "999999.999999.999999",
)  # fmt: skip
NAMES = Names("plant", "line", "box")


def model(version: str, digest: str = "1") -> ReleasedModel:
    return ReleasedModel(name="tiny", version=version, digest=f"sha256:{digest * 64}")


def test_versions_are_ordered_as_semantic_versions() -> None:
    shuffled = list(ORDERED)
    random.Random(7).shuffle(shuffled)
    assert sorted(shuffled, key=version_order) == list(ORDERED)


def test_device_takes_every_step_up_that_the_plant_signs_and_refuses_every_step_down() -> None:
    now = utc_now()
    for old, new in [(a, b) for a in ORDERED for b in ORDERED if a != b]:
        up = ORDERED.index(new) > ORDERED.index(old)
        said = Rollout(
            product="metal-plate", channel="stable", sequence=2, model=model(new), released_by="anna", released_at=now
        )
        floor = Floor(sequence=1, digest=f"sha256:{'2' * 64}", settled=True)
        state = State(since=now, floors={"metal-plate/stable": floor}, active=floor.digest)
        result = consider(state, said, NAMES, now, runs=Version("tiny", old))
        assert (result.outcome is Outcome.DONE) is up, (old, new, result)
        assert up or result.code == "version-older"
        last = {"stable": said.model_copy(update={"model": model(old, "2"), "sequence": 1})}
        with nullcontext() if up else pytest.raises(BadRelease, match=r"\[older-version\]"):
            refuse_unfit("metal-plate", make_wish("stable", "anna"), model(new), Targets(), last)


@pytest.mark.parametrize(
    "text",
    [
        "1.0", "1.0.0.0", "v1.0.0", "1.0.0-", "1.0.0-..", "1.0.0-a..b", "1.0.0-.a", "1.0.0-a.", "1.0.0+5", "01.0.0",
        "1.00.0", "1.0.0-01", "1.0.0-rc.007", "1234567.0.0", "1" * 400 + ".0.0", "1.0.0-" + "1" * 400,
        "1.0.0-" + "a" * 60, "", "1.0.0\n", "\N{ARABIC-INDIC DIGIT ONE}.0.0", "1.0.0-\N{SUPERSCRIPT TWO}",
        "1.0.0-\N{ARABIC-INDIC DIGIT ONE}", "1.0.0-rc 1",
        "1.0.0-a/b",
    ],
)  # fmt: skip
def test_what_is_no_semantic_version_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(ModelVersion).validate_python(text)


def test_order_of_what_is_no_version_is_an_error_and_not_a_guess() -> None:
    with pytest.raises(ValueError, match="is no version"):
        version_order("1.0.0-\N{SUPERSCRIPT TWO}")


def test_of_shipped_models_the_newest_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("1.0.0-rc.10", "1.0.0-1", "1.0.0", "0.10.0", "draft"):
        (tmp_path / "plate" / version).mkdir(parents=True)
        (tmp_path / "plate" / version / "manifest.json").write_text("{}")
    monkeypatch.setattr(package, "_shipped", lambda: [tmp_path])
    assert package.find_model("plate").name == "1.0.0"
