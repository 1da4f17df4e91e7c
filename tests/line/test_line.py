"""The whole appliance on a line: every trigger is answered, in time, and what could not be judged is never OK."""

from __future__ import annotations

import gc
import json
import random
import socket
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_inspect.cli import run_command
from edge_inspect.config import LineConfig, config_from_options, load_config
from edge_inspect.config_line import RejectConfig, SocketConfig
from edge_inspect.daemon import Appliance
from edge_inspect.delivery.outbox import FILE_NAME
from edge_inspect.errors import BadConfig
from edge_inspect.line.protocol import Adapter, Answer
from tests.line.conftest import with_model_of_the_box
from tests.line.drawn import DrawnCamera, Notes
from tests.line.stage import PATIENCE_S, StageCamera, StagePlc

RECIPE = """
name = "spots"
version = "1"
[classes.scratch]
threshold = 0.5
[part]
mode = "{mode}"
{times}
"""
PATIENT = "deadline_ms = 60000\nwindow_ms = 60000"
"""For tests that ask what is told, not when: this machine may stand still for seconds."""

Stage = Callable[..., tuple[Appliance, Notes]]


@pytest.fixture
def stage(tmp_path: Path, tiny_model: Path) -> Stage:
    """Build an appliance with one camera and one line `gate`."""

    def appliance(
        camera: Any, adapters: list[Any] | None, *, times: str = PATIENT, mode: str = "trigger",
        line: LineConfig | None = None, model: Path | None = None, deliver: bool = False,
    ) -> tuple[Appliance, Notes]:  # fmt: skip
        recipe = tmp_path / "triggered.toml"
        recipe.write_text(RECIPE.format(mode=mode, times=times))
        config = config_from_options(
            camera="sim", state=tmp_path / "state", provider="cpu", threads=1, recipe=recipe,
            model=str(model or tiny_model),
        )  # fmt: skip
        config = with_model_of_the_box(config).model_copy(update={"line": (line or LineConfig(name="gate"),)})
        notes = Notes()
        built = Appliance(
            config, cameras={"camera": camera}, adapters={"gate": adapters} if adapters is not None else None,
            watchers=(notes,), deliver=deliver,
        )  # fmt: skip
        if isinstance(camera, StageCamera):
            camera.is_ahead = lambda: is_ahead(built)
        return built, notes

    return appliance


def is_ahead(appliance: Appliance) -> bool:
    """The camera has pictures waiting: on a loaded machine one more would be an honest overrun."""
    lane = appliance.stations["camera"].lane
    return lane is not None and lane.ring.glance()["ready"] > 1


def run_until(done: threading.Event, appliance: Appliance) -> None:
    """Run the appliance until `done`; errors of its threads come out here."""
    stop = threading.Event()

    def wait() -> None:
        while not done.wait(0.05) and not appliance._end.is_set():
            pass
        stop.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        appliance.run(stop)
    finally:
        done.set()
        waiting.join(PATIENCE_S)


def test_every_trigger_gets_the_verdict_of_its_own_part(stage: Stage) -> None:
    parts = ["good", "bad", "bad", "good", "bad", "good", "good"] * 6
    camera = StageCamera()
    plc = StagePlc(camera, parts)
    line, notes = stage(camera, [plc])
    run_until(plc.done, line)
    truth = {"good": ("OK", "no-defect"), "bad": ("NG", "defect")}
    assert plc.told == [(number, *truth[scene]) for number, scene in enumerate(parts)]
    assert [judged.sequence for judged in notes.judged_parts] == list(range(len(parts)))
    assert notes.told == [truth[scene] for scene in parts]
    assert line.stations["camera"].counts.inferences == len(parts), "no picture is inspected without a trigger"
    assert {heart.name for heart in line._hearts()} >= {"line-gate-deadline", "line-gate-stage"}
    (seen,) = line.lines.vitals()
    assert (seen.name, seen.camera, seen.triggers, seen.ok, seen.ng) == ("gate", "camera", 42, 24, 18)
    assert seen.answer_ms is not None and not seen.ready and seen.missed_deadlines == seen.unknown == 0


@pytest.mark.parametrize(
    ("scene", "reasons"),
    [
        ("black", {"black"}),
        ("white", {"white"}),
        ("frozen", {"frozen"}),
        ("broken:corrupt", {"corrupt"}),
        ("blue", {"non-finite"}),
        ("lost", {"camera-lost"}),
    ],
)
def test_what_cannot_be_judged_is_unknown_with_its_reason(
    stage: Stage, poisoned_model: Path, scene: str, reasons: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_inspect.capture.grab.FIRST_WAIT_S", 0.02)
    parts = ["good", scene, "bad", scene, "good"]
    camera = StageCamera()
    plc = StagePlc(camera, parts)
    line, notes = stage(camera, [plc], model=poisoned_model)
    run_until(plc.done, line)
    kinds = {number: (kind, reason) for number, kind, reason in plc.told}
    assert kinds[0] == kinds[4] == ("OK", "no-defect") and kinds[2] == ("NG", "defect")
    assert {kinds[1], kinds[3]} == {("UNKNOWN", reason) for reason in reasons}
    assert sorted(notes.told) == sorted(kinds.values()), "what was told is what is reported"


def test_a_camera_that_is_silent_makes_nobody_wait_beyond_the_deadline(stage: Stage) -> None:
    camera = StageCamera()
    plc = StagePlc(camera, ["good", "silent", "good"])
    line, notes = stage(camera, [plc], times="deadline_ms = 400")
    run_until(plc.done, line)
    answer = next(answer for answer in plc.answers if answer.sequence == 1)
    assert (answer.kind, answer.reason) in {("UNKNOWN", "deadline"), ("UNKNOWN", "camera-lost")}
    assert all(a.answered_ns < a.deadline_ns for a in plc.answers if a.kind != "UNKNOWN")
    assert len(plc.answers) == len(notes.judged_parts) == 3
    assert line.lines["gate"].side.counts.missed_deadlines >= (answer.reason == "deadline")


def test_an_inspection_that_is_too_slow_is_told_as_unknown_and_reported_as_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = StageCamera()
    plc = StagePlc(camera, ["bad", "bad"])
    line, notes = stage(camera, [plc], times="deadline_ms = 1000\nwindow_ms = 60000")
    look = line.pipeline._look

    def slow_look(lane: Any, model: Any, pixels: Any) -> Any:
        found = look(lane, model, pixels)
        plc.wait_for(lambda: len(plc.answers) > len(notes.judged_parts))  # the deadline thread has spoken
        return found

    monkeypatch.setattr(line.pipeline, "_look", slow_look)
    run_until(plc.done, line)
    assert plc.told == [(n, "UNKNOWN", "deadline") for n in (0, 1)]
    assert notes.told == [("UNKNOWN", "deadline")] * 2
    looked_at = [judged for judged in notes.judged_parts if judged.stages is not None]
    assert all(judged.verdict.defects for judged in looked_at), "what was found is in the report all the same"
    assert line.lines["gate"].side.counts.late_verdicts == len(looked_at)


def test_triggers_during_a_judgement_are_overruns_reported_once_each(stage: Stage, tmp_path: Path) -> None:
    camera = StageCamera()
    plc = StagePlc(camera, ["good", "bad", "good"] * 4, together=3)
    line, _ = stage(camera, [plc], deliver=True)
    run_until(plc.done, line)
    assert [answer.sequence for answer in sorted(plc.answers, key=lambda a: a.sequence)] == list(range(36))
    assert Counter(kind for _, kind, _ in plc.told) == {"OK": 8, "NG": 4, "UNKNOWN": 24}
    assert {reason for _, kind, reason in plc.told if kind == "UNKNOWN"} == {"overrun"}
    with sqlite3.connect(tmp_path / "state" / FILE_NAME) as db:
        query = "SELECT json_extract(payload, '$.part.sequence'), json_extract(payload, '$.reason') FROM report"
        reports = sorted(db.execute(query).fetchall())
    db.close()
    assert reports == sorted((seq, reason) for seq, kind, reason in plc.told if kind != "OK")


def test_an_ok_that_an_adapter_could_not_tell_in_time_is_counted_reported_and_rejected(
    stage: Stage, tmp_path: Path
) -> None:
    class LatePlc(StagePlc):
        """Every second OK is too late on its way out."""

        def tell(self, answer: Answer) -> None:
            if answer.kind == "OK" and answer.sequence % 2:
                self.changed(answer, answer.deadline_ns)
            super().tell(answer)

        def reject(self, pulse_ms: float) -> None:
            gate.append(pulse_ms)
            if len(gate) == 3:
                gone.set()

    gate: list[float] = []
    gone = threading.Event()
    camera = StageCamera()
    plc = LatePlc(camera, ["good", "good", "bad", "good"])
    reject = LineConfig(name="gate", reject=RejectConfig(travel_ms=60_000))
    line, notes = stage(camera, [plc], deliver=True, line=reject)
    tracker = line.lines["gate"].tracker
    assert tracker is not None
    tracker._travel_ns = 0  # a test does not wait for the recipe's patient deadline,
    tracker._pulse_ms = 600_000.0  # and no machine is too slow for the gate
    run_until(gone, line)
    counts = line.lines["gate"].side.counts
    assert (counts.ok, counts.ng, dict(counts.unknown), dict(counts.withdrawn)) == (1, 1, {"deadline": 2}, {"OK": 2})
    lane = line.stations["camera"].counts
    assert (lane.parts, lane.ok, lane.ng, dict(lane.unknown), lane.withdrawn) == (4, 1, 1, {"deadline": 2}, 2)
    with sqlite3.connect(tmp_path / "state" / FILE_NAME) as db:
        query = "SELECT json_extract(payload, '$.part.sequence'), json_extract(payload, '$.reason') FROM report"
        reports = sorted(db.execute(query).fetchall())
    db.close()
    assert reports == [(1, "deadline"), (2, "defect"), (3, "deadline")]
    assert not any(part.verdict.kind.value == "UNKNOWN" for part in notes.judged_parts), "each part is shown once"


def test_the_line_is_told_before_anything_else_happens(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = StageCamera()
    plc = StagePlc(camera, ["bad"] * 5)
    line, _ = stage(camera, [plc], deliver=True)
    assert line.writer is not None
    told_by_then: list[int] = []
    monkeypatch.setattr(line.writer, "hand_over", lambda report: told_by_then.append(len(plc.answers)))
    monkeypatch.setattr(line.pipeline, "_tell", lambda lane, judged: told_by_then.append(len(plc.answers)))
    run_until(plc.done, line)
    assert told_by_then == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_many_triggers_in_bad_times_are_all_answered_and_nothing_unseen_passes(
    stage: Stage, poisoned_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_inspect.capture.grab.FIRST_WAIT_S", 0.02)
    scenes = [
        "good",
        "bad",
        "good",
        "black",
        "bad",
        "frozen",
        "white",
        "good",
        "broken:stale",
        "blue",
        "silent",
        "lost",
    ]
    parts = random.Random(5).choices(scenes, weights=[9, 9, 9, 2, 9, 2, 2, 9, 2, 2, 1, 1], k=200)
    camera = StageCamera()
    plc = StagePlc(camera, parts)
    line, notes = stage(camera, [plc], times="deadline_ms = 500\nwindow_ms = 500", model=poisoned_model)
    run_until(plc.done, line)
    assert [sequence for sequence, _, _ in plc.told] == list(range(len(parts)))
    for answer in plc.answers:
        scene = parts[answer.sequence]
        assert answer.kind in {"good": {"OK", "UNKNOWN"}, "bad": {"NG", "UNKNOWN"}}.get(scene, {"UNKNOWN"}), answer
        assert answer.kind == "UNKNOWN" or answer.answered_ns < answer.deadline_ns
    assert Counter(judged.sequence for judged in notes.judged_parts) == Counter(range(len(parts)))
    told = {answer.sequence: (answer.kind, answer.reason) for answer in plc.answers}
    assert all((j.verdict.kind.value, j.verdict.reason) == told[j.sequence] for j in notes.judged_parts)  # type: ignore[index]


def test_what_other_threads_leave_is_collected_while_nobody_triggers(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A belt that stands still for a weekend, with a camera that runs and a PLC that polls: pictures are no work."""
    monkeypatch.setattr("edge_inspect.collector.IDLE_S", 0.05)
    monkeypatch.setattr("edge_inspect.collector.COLLECT_ALL_EVERY_S", 0.2)
    collected = threading.Event()
    camera = StageCamera()
    line, _ = stage(camera, [StagePlc(camera, [])])
    before = gc.collect

    def collect(generation: int = 2) -> int:
        if generation == 2 and camera.shown > 20:
            collected.set()
        return before(generation)

    monkeypatch.setattr(gc, "collect", collect)
    run_until(collected, line)
    assert gc.isenabled() and not gc.get_freeze_count()


def test_at_the_end_nothing_is_open_and_nobody_is_ready(stage: Stage) -> None:
    camera = StageCamera()
    plc = StagePlc(camera, ["good", "silent"])
    line, notes = stage(camera, [plc])
    asked = threading.Event()
    status = plc.status

    def stop_while_one_waits(ready: bool, busy: bool) -> None:
        status(ready, busy)
        if busy and line.lines["gate"].side.counts.triggers == 2:
            asked.set()

    plc.status = stop_while_one_waits  # type: ignore[method-assign]
    run_until(asked, line)
    assert plc.states[-1] == (False, False)
    assert [answer.sequence for answer in plc.answers] == [0, 1]
    assert plc.answers[1].kind == "UNKNOWN" and len(notes.judged_parts) == 2


def test_when_the_inspect_thread_dies_open_parts_are_unknown(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = StageCamera()
    plc = StagePlc(camera, ["good"])
    line, _ = stage(camera, [plc])

    def explode(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(line.pipeline, "_look", explode)
    with pytest.raises(ZeroDivisionError):
        run_until(plc.done, line)
    assert plc.told == [(0, "UNKNOWN", "not-ready")] and plc.states[-1] == (False, False)


def test_what_ails_a_line_stands_in_the_state(stage: Stage) -> None:
    camera = StageCamera()
    plc = StagePlc(camera, ["bad"])
    table = LineConfig(name="gate", reject=RejectConfig(travel_ms=60_000, confirm_ms=1))
    line, _ = stage(camera, [plc], line=table)
    plc.trouble = "cable cut"
    tracker = line.lines["gate"].tracker
    assert tracker is not None
    tracker._miss()
    assert [(alarm.code, alarm.detail) for alarm in line.state().degraded] == [
        ("line-down", "gate: stage: cable cut"),
        ("reject-missed", "gate: 1 missed"),
    ]
    plc.trouble = ""
    run_until(plc.done, line)
    assert [going.part for going in tracker._going] == [0], "the bad part is on its way to the gate"


def test_parts_that_the_camera_finds_are_told_too(stage: Stage) -> None:
    told: list[tuple[int, str, str]] = []

    class Lamp(Adapter):
        name = "lamp"

        def tell(self, answer: Any) -> None:
            told.append((answer.sequence, answer.kind, answer.reason))

        def status(self, ready: bool, busy: bool) -> None:
            assert not busy

        def run(self, stop: threading.Event, fire: Any = None) -> None:
            assert fire is None
            stop.wait()

    line, notes = stage(DrawnCamera(["good", "bad", "broken:corrupt"]), [Lamp()], mode="frame", times="")
    line.run(notes.stop)
    assert told == [(0, "OK", "no-defect"), (1, "NG", "defect"), (2, "UNKNOWN", "corrupt")]
    assert notes.told == [(kind, reason) for _, kind, reason in told]
    assert all(judged.sequence is None for judged in notes.judged_parts)


def test_a_line_from_the_configuration_serves_a_unix_socket(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "line.sock"
    camera, done = StageCamera(), threading.Event()
    line, _ = stage(camera, None, line=LineConfig(name="gate", socket=SocketConfig(path=path), queue=63))
    answers: list[dict[str, Any]] = []

    def client() -> None:
        with socket.socket(socket.AF_UNIX) as plc:
            plc.settimeout(PATIENCE_S)
            while not path.exists() or not line.lines["gate"].side.ready:
                assert not done.wait(0.02)
            plc.connect(str(path))
            lines = plc.makefile("rw")
            for sequence in range(30):
                camera.scene = "bad" if sequence % 3 == 0 else "good"
                lines.write(json.dumps({"trigger": sequence}) + "\n")
                lines.flush()
                answers.append(json.loads(lines.readline()))
            done.set()

    asking = threading.Thread(target=client)
    asking.start()
    try:
        run_until(done, line)
    finally:
        asking.join(PATIENCE_S)
    assert [(a["seq"], a["verdict"]) for a in answers] == [(n, "OK" if n % 3 else "NG") for n in range(30)]
    assert not path.exists()


def test_mode_trigger_without_a_line_is_one_clear_line(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "triggered.toml"
    recipe.write_text(RECIPE.format(mode="trigger", times="deadline_ms = 50"))
    arguments = ["sim:parts=1", "--recipe", str(recipe), "--model", str(tiny_model)]
    assert run_command(["replay", *arguments]) == 78
    said = capsys.readouterr().err.strip()
    assert "\n" not in said and "part.mode" in said and "[[line]]" in said


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"trigger": None}, "key `trigger`: missing"),
        ({"trigger": None, "socket": SocketConfig(), "margin_ms": 50.0}, "key `margin_ms`: found 50"),
    ],
)
def test_a_line_and_a_recipe_that_do_not_fit_are_refused(stage: Stage, line: dict[str, Any], says: str) -> None:
    with pytest.raises(BadConfig, match=says):
        stage(StageCamera(), None, times="deadline_ms = 50", line=LineConfig(name="gate", **line))


ALL_ADAPTERS = """
[[camera]]
name = "camera"
source = "sim"
recipe = "triggered.toml"
model = "{model}"
[mqtt]
url = "mqtt://127.0.0.1:1"
[[line]]
name = "gate"
trigger = "gpio"
fail_safe = "reject"
[line.modbus_server]
[line.modbus_client]
host = "127.0.0.1"
[line.gpio]
trigger_line = 1
ok_line = 2
ng_line = 3
reject_line = 4
confirm_line = 5
encoder_line = 6
[line.mqtt]
[line.socket]
[line.reject]
travel_counts = 400
"""


def test_every_table_of_a_line_becomes_its_adapter(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "triggered.toml").write_text(RECIPE.format(mode="trigger", times="deadline_ms = 50"))
    (tmp_path / "line.toml").write_text(ALL_ADAPTERS.format(model=tiny_model))
    line = Appliance(load_config(tmp_path / "line.toml", {"STATE_DIRECTORY": str(tmp_path)}), deliver=False)
    gate = line.lines["gate"]
    assert [adapter.name for adapter in gate.adapters] == ["modbus-server", "modbus-client", "gpio", "mqtt", "socket"]
    assert [name for name, _, _ in line.lines.threads()] == [
        "line-gate-deadline", "line-gate-reject", *(f"line-gate-{adapter.name}" for adapter in gate.adapters)
    ]  # fmt: skip
    assert gate.tracker is not None and [type(g).__name__ for g in gate.tracker._gates] == ["GpioLine"]
    for adapter in gate.adapters:
        waker = getattr(adapter, "_waker", None)
        if waker is not None:
            waker.close()


def test_a_missing_library_names_the_extra(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from edge_inspect.config_line import ModbusServerConfig

    for name in [name for name in sys.modules if name.startswith(("pymodbus", "edge_inspect.line.modbus_server"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pymodbus", None)
    with pytest.raises(BadConfig, match=r"pip install 'edge-inspect\[line\]'"):
        stage(StageCamera(), None, line=LineConfig(name="gate", modbus_server=ModbusServerConfig()))
