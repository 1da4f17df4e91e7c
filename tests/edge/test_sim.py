"""The simulated camera: same seed same pictures, boxes that tell the truth, frames written where they belong."""

from __future__ import annotations

import inspect
import json
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from edge_inspect.capture import plates
from edge_inspect.capture.open import camera_from
from edge_inspect.capture.plate_ink import Grey, Outline
from edge_inspect.capture.plates import KINDS, render_plate
from edge_inspect.capture.protocol import Read, Stamp
from edge_inspect.capture.sim import SimCamera
from edge_inspect.cli import sim as sim_cli
from edge_inspect.errors import BadSource, FormatChanged, Usage


def slot(height: int = 360, width: int = 640) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


def picture(camera: SimCamera, index: int) -> np.ndarray:
    pixels = slot()
    camera.show(index, pixels)
    return pixels


# --- plates -------------------------------------------------------------------------------------------------------


def test_same_generator_state_draws_the_same_plate() -> None:
    first, second = (render_plate(np.random.default_rng(4), ["scratch", "scratch"]) for _ in range(2))
    assert np.array_equal(first.pixels, second.pixels)
    assert first.boxes == second.boxes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(12))
def test_box_encloses_what_the_defect_changed(kind: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plate is drawn again with the defect's pen lifted; the two pictures differ inside the box only."""
    whole = render_plate(np.random.default_rng(seed), [kind])
    draw = plates._DRAW[kind]

    def lifted(rng: np.random.Generator, metal: Grey, outline: Outline) -> None:
        draw(rng, metal.copy(), outline)

    monkeypatch.setitem(plates._DRAW, kind, lifted)
    monkeypatch.setattr(plates, "_changed", lambda before, after: (0.0, 0.0, 1.0, 1.0))
    good = render_plate(np.random.default_rng(seed), [kind])
    changed = np.abs(whole.pixels.astype(int) - good.pixels.astype(int))
    _, x1, y1, x2, y2 = whole.boxes[0]
    outside = changed.copy()
    outside[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1] = 0
    assert outside.max() <= 16  # below what counts as visible, with the grain that burnt-out pixels lose
    inside = changed[int(y1) : int(y2), int(x1) : int(x2)] >= 12
    assert inside.any()
    assert inside[:, :5].any() and inside[:, -5:].any() and inside[:5].any() and inside[-5:].any(), "box is too wide"


@pytest.mark.parametrize("seed", range(20))
def test_a_scratch_is_clearly_brighter_than_wear(seed: int) -> None:
    rng = np.random.default_rng(1000 + seed)
    plate = render_plate(rng, ["scratch"])
    _, x1, y1, x2, y2 = plate.boxes[0]
    part = plate.pixels[int(y1) : int(y2), int(x1) : int(x2)].astype(float)
    assert part.max() - np.median(part) >= 70


def test_unknown_defect_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no defect kind 'rust'"):
        render_plate(np.random.default_rng(0), ["rust"])


# --- camera -------------------------------------------------------------------------------------------------------


def test_frame_depends_only_on_seed_and_number() -> None:
    straight, jumping = SimCamera(seed=5, parts=4, paced=False), SimCamera(seed=5, parts=4, paced=False)
    pixels, stamp = slot(), Stamp()
    straight.open()
    for _ in range(121):
        straight.read_into(pixels, stamp)
    assert stamp.index == 120
    assert np.array_equal(pixels, picture(jumping, 120))
    assert not np.array_equal(pixels, picture(SimCamera(seed=6, parts=4, paced=False), 120))


def test_no_two_frames_are_equal_even_on_an_empty_belt() -> None:
    camera = SimCamera(seed=5, parts=1, paced=False)
    last = camera.frame_count(1) - 1
    assert not np.array_equal(picture(camera, last), picture(camera, last - 1))


def test_truth_has_the_format_of_the_recorded_clips(data_dir: Path) -> None:
    recorded = json.loads((data_dir / "replay" / "metal_tag_line_dev.gt.json").read_text())
    truth = json.loads(json.dumps(SimCamera(seed=1, parts=6, ng_share=0.7, paced=False).truth()))
    assert recorded.keys() <= truth.keys()
    assert recorded["parts"][0].keys() <= truth["parts"][0].keys()
    for part in truth["parts"]:
        assert part["verdict"] == ("NG" if part["boxes"] else "OK")
    found = next(frame for frame in truth["frames"] if frame)[0]
    assert found.keys() == next(frame for frame in recorded["frames"] if frame)[0].keys()
    assert found["cls"] == "scratch"


def test_truth_places_parts_as_the_recorded_clip_does() -> None:
    part = SimCamera(seed=1, parts=1, paced=False).truth()["parts"][0]
    assert {key: part[key] for key in ("x", "w", "h", "enter_frame", "center_frame", "exit_frame")} == {
        "x": 640,
        "w": 450,
        "h": 300,
        "enter_frame": 0,
        "center_frame": 68,
        "exit_frame": 136,
    }


def test_boxes_in_frame_lie_on_bright_strokes() -> None:
    camera = SimCamera(seed=3, parts=8, ng_share=1.0, paced=False)
    checked = 0
    for part in camera.truth()["parts"]:
        pixels = picture(camera, part["center_frame"])
        for box in camera.boxes_in_frame(part["center_frame"]):
            x1, y1, x2, y2 = (int(value) for value in box["bbox"])
            inside = pixels[y1:y2, x1:x2, 0].astype(float)
            assert inside.max() - np.median(inside) > 50
            checked += 1
    assert checked >= 8


def test_clipped_boxes_end_at_the_edge_of_the_picture() -> None:
    camera = SimCamera(seed=3, parts=5, ng_share=1.0, paced=False)
    frames = camera.truth()["frames"]
    clipped = [box["bbox"] for frame in frames for box in frame if box["clipped"]]
    assert clipped
    assert all(x1 == 0 or x2 == 640 for x1, _, x2, _ in clipped)
    assert all(
        0 <= x1 < x2 <= 640 and 0 <= y1 < y2 <= 360
        for frame in frames
        for x1, y1, x2, y2 in (box["bbox"] for box in frame)
    )


def test_share_of_defective_parts_is_what_was_asked_for() -> None:
    parts = SimCamera(seed=2, parts=60, ng_share=0.3, paced=False).truth()["parts"]
    assert 8 <= sum(part["verdict"] == "NG" for part in parts) <= 29
    assert not any(part["boxes"] for part in SimCamera(seed=2, parts=10, ng_share=0.0, paced=False).truth()["parts"])


def test_unpaced_camera_gives_every_frame_and_ends_after_the_last_part() -> None:
    camera = SimCamera(seed=1, parts=2, paced=False)
    camera.open()
    pixels, stamp, indices = slot(), Stamp(), []
    while camera.read_into(pixels, stamp) is Read.FRAME:
        indices.append(stamp.index)
        assert stamp.missed == 0
    truth = camera.truth()
    assert indices == list(range(len(truth["frames"])))
    assert truth["parts"][-1]["exit_frame"] < len(indices)
    assert camera.read_into(pixels, stamp) is Read.END


def test_slot_is_written_in_place_and_nothing_around_it() -> None:
    whole = np.full((2, 362, 640, 3), 7, np.uint8)
    pixels, stamp = whole[1, 1:361], Stamp()
    camera = SimCamera(seed=1, parts=2, paced=False)
    camera.open()
    address = pixels.ctypes.data
    for _ in range(30):
        camera.read_into(pixels, stamp)
    assert pixels.ctypes.data == address
    assert pixels.mean() > 30
    assert (whole[0] == 7).all() and (whole[1, 0] == 7).all() and (whole[1, -1] == 7).all()


def test_no_frame_sized_memory_is_taken_while_a_plate_passes() -> None:
    camera = SimCamera(seed=1, parts=2, paced=False)
    camera.open()
    pixels, stamp = slot(), Stamp()
    for _ in range(60):
        camera.read_into(pixels, stamp)
    tracemalloc.start()
    try:
        camera.read_into(pixels, stamp)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        camera.read_into(pixels, stamp)
        assert tracemalloc.get_traced_memory()[1] - before < 20_000
    finally:
        tracemalloc.stop()


def test_slot_of_another_size_stays_untouched() -> None:
    camera = SimCamera(seed=1, paced=False)
    camera.open()
    pixels = np.zeros((480, 640, 3), np.uint8)
    with pytest.raises(FormatChanged):
        camera.read_into(pixels, Stamp())
    assert not pixels.any()


def test_plates_fill_a_full_hd_picture_in_the_same_proportion() -> None:
    camera = SimCamera(seed=1, width=1920, height=1080, px_per_frame=24, parts=1, ng_share=1.0, paced=False)
    part = camera.truth()["parts"][0]
    assert (part["w"], part["h"]) == (1350, 900)
    large = slot(1080, 1920)
    camera.show(part["center_frame"], large)
    small = SimCamera(seed=1, parts=1, ng_share=1.0, paced=False)
    shrunk = cv2.resize(large, (640, 360), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(shrunk - picture(small, part["center_frame"])).mean() < 6


def test_paced_camera_stamps_frames_on_schedule_and_counts_those_it_missed() -> None:
    camera = SimCamera(seed=1, parts=None, fps=200.0)
    camera.open()
    pixels, first, later = slot(), Stamp(), Stamp()
    assert camera.live
    while camera.read_into(pixels, first) is not Read.FRAME:
        pass
    for _ in range(20):
        while camera.read_into(pixels, later) is not Read.FRAME:
            pass
    frames = later.index - first.index
    assert later.captured_ns - first.captured_ns == pytest.approx(frames * 5e6, abs=2)
    assert frames >= 20


def test_camera_is_opened_by_name_with_its_options() -> None:
    camera = camera_from("sim:seed=3,parts=1,paced=false")
    assert isinstance(camera, SimCamera)
    assert not camera.live


def test_defect_kinds_can_be_named_in_the_source() -> None:
    assert camera_from("sim:kinds=dent,parts=1,ng_share=1").truth()["classes"] == ["dent"]  # type: ignore[attr-defined]
    both = camera_from("sim:kinds=dent+stain,parts=12,ng_share=1").truth()  # type: ignore[attr-defined]
    assert {box[0] for part in both["parts"] for box in part["boxes"]} == {0.0, 1.0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 10}, "width = 10"),
        ({"height": "tall"}, "height = 'tall'"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": 1.5}, "seed = 1.5"),
        ({"fps": "fast"}, "fps = 'fast'"),
        ({"fps": float("nan")}, "fps = nan"),
        ({"paced": 1}, "paced = 1"),
        ({"kinds": "rust"}, "kinds = rust"),
        ({"fps": 0}, "fps = 0"),
        ({"px_per_frame": 0}, "px_per_frame = 0"),
        ({"parts": 0}, "parts = 0"),
        ({"ng_share": 1.5}, "ng_share = 1.5"),
        ({"kinds": ("rust",)}, "kinds = rust"),
        ({"kinds": ()}, "kinds = "),
        ({"lamp": 0.8}, "lamp = 0.8"),
    ],
)
def test_impossible_options_are_one_clear_line(options: dict[str, object], said: str) -> None:
    with pytest.raises(BadSource, match=said):
        SimCamera(**options)  # type: ignore[arg-type]


def test_lamp_dims_the_line_while_it_runs(tmp_path: Path) -> None:
    lamp = tmp_path / "lamp"
    camera, pixels = camera_from(f"sim:seed=3,parts=2,paced=false,lamp={lamp}"), slot()
    camera.open()

    def brightness(said: str | None) -> float:
        if said is not None:
            lamp.write_text(said)
        assert camera.read_into(pixels, Stamp()) is Read.FRAME
        return float(pixels[:16].mean())

    full = brightness(None)
    assert brightness("0.8\n") == pytest.approx(0.8 * full, rel=0.02)
    for nothing_new in ("", "much", "nan", "1.5", "-1"):
        assert brightness(nothing_new) == pytest.approx(0.8 * full, rel=0.02)
    assert brightness("1") == pytest.approx(full, rel=0.02)


# --- export -------------------------------------------------------------------------------------------------------


def app() -> typer.Typer:
    made = typer.Typer()
    made.callback()(lambda: None)
    sim_cli.add(made)
    return made


def test_export_writes_a_data_set_split_by_plate(tmp_path: Path) -> None:
    arguments = ["sim", "export", "--out", str(tmp_path / "set"), "--plates", "6", "--val-share", "0.34", "--json"]
    result = CliRunner().invoke(app(), arguments)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout.splitlines()[-1])
    assert (said["train_pictures"], said["val_pictures"]) == (8, 4)
    pictures = sorted((tmp_path / "set" / "images").rglob("*.jpg"))
    labels = sorted((tmp_path / "set" / "labels").rglob("*.txt"))
    assert [path.stem for path in pictures] == [path.stem for path in labels]
    assert len({path.read_bytes() for path in pictures}) == 12
    for line in (line for path in labels for line in path.read_text().splitlines()):
        _, x, y, w, h = map(float, line.split())
        assert 0 <= x - w / 2 < x + w / 2 <= 1.00001 and 0 <= y - h / 2 < y + h / 2 <= 1.00001


def test_export_refuses_a_folder_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    result = CliRunner().invoke(app(), ["sim", "export", "--out", str(tmp_path), "--plates", "4"])
    assert isinstance(result.exception, Usage)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_frames_are_lossless_and_repeatable(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        result = CliRunner().invoke(app(), ["sim", "frames", "--out", str(tmp_path / folder), "--parts", "2"])
        assert result.exit_code == 0, result.output
    first, second = (sorted((tmp_path / folder).glob("*.png")) for folder in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert len(first) == 2


def test_every_option_of_the_simulator_is_explained() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")
    options = [name for name in inspect.signature(SimCamera).parameters if f"`{name}`" not in page]
    assert options == []
    assert all(f"`{kind}`" in page for kind in KINDS)
