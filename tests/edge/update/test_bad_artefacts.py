"""The table of bad artefacts, C1 to C20: each is refused with its own code, and the line never notices.

A model judges all the while, on an appliance that is real but for its camera; each frame is counted. What each case
may leave on the disk stands in the case. `docs/models.md` shows the same table to people.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge_inspect.errors import BadModel
from edge_inspect.update.store import look
from tests.edge.update.bad_case import Fetched, Started, Told, Tried
from tests.edge.update.bad_disks import STARTED, TOLD, rot
from tests.edge.update.bad_packages import TRIED
from tests.edge.update.bad_table import FETCHED, PAGE, TABLE, written
from tests.edge.update.box import Box
from tests.edge.update.victim import Victim, until

ROOT = Path(__file__).resolve().parents[3]
FULL_BYTES = 100_000
FULL_DISK = f"""
import resource, sys, threading
from pathlib import Path
from edge_inspect.errors import StorageFailing
from edge_inspect.update.fetch import FetchSettings, fetch_once
from edge_inspect.update.transport import FetchLimits
resource.setrlimit(resource.RLIMIT_FSIZE, ({FULL_BYTES}, {FULL_BYTES}))
settings = FetchSettings(
    models_dir=Path(sys.argv[1]), product="metal-plate", channel="stable", site="plant1", line="press-4",
    device="edge-0017", url=sys.argv[2], root=Path(sys.argv[3]).read_bytes(), limits=FetchLimits(min_free_bytes=0),
)
try:
    fetch_once(settings, threading.Event())
except StorageFailing as err:
    print(type(err).__name__, str(err).rpartition(": ")[2])
"""


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with pytest.MonkeyPatch.context() as patch, Victim(tmp_path_factory.mktemp("victim"), patch) as victim:
        yield victim


@pytest.fixture(autouse=True)
def nothing_noticed(victim: Victim) -> Iterator[None]:
    """Whatever a case does: no frame is lost, the same model judges, and what is on disk is what its name says."""
    victim.reset()
    before = victim.state()
    yield
    victim.let_go()
    assert victim.sound() == []
    after = victim.state()
    assert (after.active or victim.factory_digest) == victim.active
    for channel, floor in before.floors.items():
        assert after.floors[channel].sequence >= floor.sequence
    assert {found.digest for found in before.refused} <= {found.digest for found in after.refused}
    assert victim.appliance.models.active() == victim.active


def versions(victim: Victim) -> dict[str, int]:
    folder = victim.models_dir / "trust"
    return {path.name: json.loads(path.read_bytes())["signed"]["version"] for path in folder.glob("*.json")}


def _elsewhere(victim: Victim) -> Path:
    """A copy of what was fetched, which the daemon does not see."""
    folder = victim.folder / "made" / "copy"
    shutil.copytree(victim.models_dir, folder)
    return folder


def named(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def offered(victim: Victim) -> dict[str, object]:
    return {path.name: json.loads(path.read_bytes())["content"] for path in (victim.models_dir / "offers").iterdir()}


@pytest.mark.parametrize("case", FETCHED, ids=lambda case: f"{case.fault} {case.story}")
def test_refused_while_it_is_fetched(case: Fetched, victim: Victim) -> None:
    victim.renew()
    models, spies = victim.models_dir, victim.spies
    packages, offers, blobs = named(models / "packages"), offered(victim), named(models / "blobs")
    probes, parsed, stages = len(spies.probes), set(spies.parsed), len(spies.stages)
    trusted, refused = versions(victim), victim.state().refused
    bends = case.bend(victim)
    for _ in bends if bends is not None else [None]:
        assert victim.refusal() == case.code
        assert named(models / "packages") <= packages
        assert case.blobs or named(models / "blobs") <= blobs
        assert case.parts or named(models / "staging") == set()
        assert all(version >= trusted.get(name, 0) for name, version in versions(victim).items())
    assert victim.refusal() == case.code, "another one at the second look"
    assert victim.alarms() == ([case.code] if case.code not in ("", "stopped") else []), "the plant is not told"
    assert offered(victim) == offers
    assert spies.parsed - victim.sound_files == parsed - victim.sound_files, "parsed before it was verified"
    assert len(spies.probes) == probes and set(spies.stages[stages:]) <= {"fetch", "idle"}
    assert victim.state().refused == refused


@pytest.mark.parametrize("case", TRIED, ids=lambda case: f"{case.fault} {case.story}")
def test_refused_by_the_daemon_and_remembered(case: Tried, victim: Victim) -> None:
    models, spies = victim.models_dir, victim.spies
    probes, stages = len(spies.probes), len(spies.stages)
    made = case.make(victim)
    for folder in [made] if isinstance(made, Path) else made:
        rollout = victim.release(folder)
        before_the_daemon = victim.refusal()
        assert before_the_daemon == (case.code if case.stage == "verify" else "")
    digest = rollout.model.digest
    state = victim.settled(digest)
    refused = state.refusal_of(digest)
    assert refused is not None and refused.code == case.code, state.last_refusal
    until(lambda: victim.last_line()[:2] == ("refused", digest), victim.last_line)  # written after the state
    assert victim.last_line() == ("refused", digest, case.code)
    home = "" if case.stage == "fetch" else "revert "
    assert f"{case.stage} {home}idle" in " ".join(spies.stages[stages:]), spies.stages[stages:]
    assert spies.probes[probes:] == ([] if case.stage in ("fetch", "verify") else [digest])
    if case.stage == "verify":
        assert digest.removeprefix("sha256:") not in named(models / "packages")
    told = victim.appliance.state().update
    assert told is not None and told.refused is not None
    assert (told.refused.digest, told.refused.code) == (digest, case.code), "the plant is not told"
    asked = len(victim.server.asked("targets/*/[0-9]*"))
    assert victim.refusal() == "" and len(victim.server.asked("targets/*/[0-9]*")) == asked, "fetched again"


@pytest.mark.parametrize("case", TOLD, ids=lambda case: f"{case.fault} {case.story}")
def test_lie_of_whoever_fetches_is_not_believed(case: Told, victim: Victim) -> None:
    probes, stages, before = len(victim.spies.probes), len(victim.spies.stages), victim.state()
    case.bend(victim)

    def heard() -> bool:
        state = victim.state()
        return state.stage.value == "idle" and state.last_refusal != before.last_refusal

    until(heard, victim.state)
    state = victim.state()
    assert state.last_refusal is not None and state.last_refusal.code == case.code, state.last_refusal
    assert tuple(victim.spies.stages[stages:]) == case.stages and len(victim.spies.probes) == probes
    assert state.refused == before.refused, "it is no fault of the model"


@pytest.mark.parametrize("case", STARTED, ids=lambda case: f"{case.fault} {case.story}")
def test_start_finds_a_model_that_verifies_or_none(case: Started, box: Box) -> None:
    case.bend(box)
    before = read_state(box)
    if not case.judges:
        with pytest.raises(BadModel) as caught:
            box.start()
        assert caught.value.code == case.code
        return
    updater = box.start()
    assert box.live is not None and box.store is not None
    assert box.live.active() == box.digests[case.judges]
    state = box.store.state
    codes = [code for code, _ in updater.alarms()] + [state.last_refusal.code if state.last_refusal else ""]
    assert case.code in codes
    assert {name: floor.sequence for name, floor in state.floors.items()} == before
    assert {code for code, _ in updater.alarms()} <= {case.code, f"model-{case.code}"}


def read_state(box: Box) -> dict[str, int]:
    """The floors, by what the history says: the state may be lost."""
    entries = look(box.state_dir)[1].entries
    return {f"{entry.channel}": entry.sequence for entry in entries if entry.channel}


def test_disk_that_takes_no_more_keeps_what_it_has(victim: Victim) -> None:
    """C17. The fetcher is a process of its own here, which may not write a file as long as the model."""
    victim.renew()
    victim.release(shadow={"parts": 1_000_000})
    said = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(victim.models_dir), victim.server.url, str(victim.folder / "root.json")],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert said.stdout.splitlines()[-1:] == ["StorageFailing File too large [storage-failing]"], (
        said.stdout + said.stderr
    )
    (part,) = (victim.models_dir / "staging").glob("*.part")
    assert part.stat().st_size == FULL_BYTES
    asked = len(victim.server.requests)
    victim.settings = replace(victim.settings, models_dir=_elsewhere(victim))
    assert victim.refusal() == ""
    assert [request.range for request in victim.server.requests[asked:] if "model.onnx" in request.path] == [
        f"bytes={FULL_BYTES}-"
    ]


def test_table_for_people_is_this_one() -> None:
    page = PAGE.read_text()
    assert written(page) == page, "python -m tests.edge.update.bad_table"


def test_table_is_as_large_as_it_says() -> None:
    assert len(TABLE) >= 60 and {case.fault for case in TABLE} == {f"C{number}" for number in range(1, 21)}
    assert len({(case.fault, case.story) for case in TABLE}) == len(TABLE)


def test_rot_of_the_model_that_judges_is_found_while_it_runs_and_is_healed(victim: Victim) -> None:
    """C18. The line goes on with the model before; what was rotten may come again, and is then right."""
    victim.renew()
    rot(victim.models_dir / "packages" / victim.active.removeprefix("sha256:"))
    rotten = victim.active
    victim.rehash_now()
    victim.judges(victim.factory_digest)
    state = victim.settled(rotten)
    assert state.last_refusal is not None and state.last_refusal.code == "digest-mismatch"
    assert state.active is None and state.refusal_of(rotten) is None
    victim.take_good()
    assert victim.active == rotten


@pytest.mark.parametrize("audience", [{"devices": ["edge-9999"]}, {}], ids=["rollout for others", "rollout for us"])
def test_revoked_model_goes_back_at_once(audience: dict[str, list[str]], victim: Victim) -> None:
    """C20. Not even for as long as its successor would have to be tried."""
    victim.renew()
    if victim.active == victim.factory_digest:  # the one before was revoked
        victim.good = victim.package(version="1.3.0")
        victim.take_good()
    revoked = victim.active
    victim.release(victim.package(version="3.0.0"), revoked=[revoked], audience=audience, shadow={"parts": 1_000_000})
    victim.look()
    victim.judges(victim.factory_digest)
    state = victim.state()
    assert revoked in state.revoked and state.active is None
    until(lambda: victim.last_line()[1] == victim.factory_digest, victim.last_line)  # written once it judges
    entries = [entry for entry in look(victim.state_folder)[1].entries if entry.event == "activated"]
    assert (entries[-1].replaced, entries[-1].code) == (revoked, "revoked")


def test_line_was_told_by_the_right_model_all_the_while(victim: Victim) -> None:
    """The end of the table: every report carries the digest of a model that was to judge, and no frame is missing."""
    good = {victim.factory_digest, *victim.kept}
    assert set(victim.frames.by_digest) <= good
    assert set(victim.reported()) <= good
    assert victim.frames.told > 20 and not victim.sound()
