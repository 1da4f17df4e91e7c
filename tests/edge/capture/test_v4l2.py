"""V4L2 through a shim that plays the driver: whatever it does, no slot shows another picture without being marked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.sim.v4l2 import ShimCamera, environment, mjpg, numbered, yuyv

ROOT = Path(__file__).resolve().parents[3]
READER = ROOT / "tests" / "sim" / "v4l2_reader.py"
WIDTH, HEIGHT = 320, 240
PICTURES = numbered(80, WIDTH, HEIGHT)
SMALLER = numbered(80, 160, 120)

FORMATS = ("YUYV", "MJPG")
AGED = {"max_age_s": 0.5}


def records(fourcc: str, pictures: Sequence[Any] = PICTURES) -> list[bytes]:
    return [mjpg(picture) if fourcc == "MJPG" else yuyv(picture) for picture in pictures]


def camera(folder: Path, fourcc: str = "YUYV", *lines: str, **options: Any) -> ShimCamera:
    """A camera that gives the next picture as soon as a buffer is free; `fps=` for one with a pace of its own."""
    made = ShimCamera(folder, **options).play(fourcc, WIDTH, HEIGHT, records(fourcc))
    return made.write(*lines)


def read(
    cameras: ShimCamera | list[ShimCamera], frames: int = 12, device: str = "/dev/video0", **plan: Any
) -> list[dict[str, Any]]:
    """What a process with these cameras saw; the last entry is `end`."""
    cameras = cameras if isinstance(cameras, list) else [cameras]
    options = {"max_age_s": 5.0} | plan.pop("options", {})  # a busy test machine makes no picture stale by itself
    plan |= {"device": device, "frames": frames, "options": options}
    env = environment(cameras) | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    command = [sys.executable, str(READER), json.dumps(plan)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for one in cameras:
        assert not one.happened("wrong:"), one.log.read_text()
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    assert seen.pop()["kind"] == "end", done.stderr
    return seen


def of(seen: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [entry for entry in seen if entry["kind"] == kind]


def check_whole(frame: dict[str, Any], number: int) -> None:
    assert frame["broken"] == ""
    assert (frame["top"], frame["bottom"]) == (number, number)


# ---- good pictures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fourcc", FORMATS)
def test_every_picture_arrives_whole_in_order_in_the_same_slot(tmp_path: Path, fourcc: str) -> None:
    shim = camera(tmp_path, fourcc)
    seen = read(shim, frames=30)
    form = seen[0]
    assert (form["kind"], form["width"], form["height"], form["pixel_format"]) == ("open", WIDTH, HEIGHT, fourcc)
    assert form["settings"]["card"] == "Shim Camera"
    frames = of(seen, "frame")
    assert len(frames) == 30
    for number, frame in enumerate(frames):
        check_whole(frame, number)
        assert (frame["index"], frame["missed"]) == (number, 0)
        assert 0 <= frame["age_s"] < 5
        assert abs(frame["age_s"] - frame["utc_age_s"]) < 0.5
    assert len({frame["pixels"] for frame in frames}) == 1
    stamps = [frame["captured_ns"] for frame in frames]
    assert stamps == sorted(set(stamps))


def test_rows_further_apart_than_their_pixels_are_read_right(tmp_path: Path) -> None:
    shim = ShimCamera(tmp_path).write("padding 4096")
    shim.play("YUYV", WIDTH, HEIGHT, [yuyv(picture, 768) for picture in PICTURES], stride=768)
    for number, frame in enumerate(of(read(shim), "frame")):
        check_whole(frame, number)


def test_mjpg_without_huffman_tables_is_read(tmp_path: Path) -> None:
    shim = ShimCamera(tmp_path)
    shim.play("MJPG", WIDTH, HEIGHT, [mjpg(picture, tables=False) for picture in PICTURES])
    for number, frame in enumerate(of(read(shim), "frame")):
        check_whole(frame, number)


def test_a_driver_with_the_basic_ioctls_only_and_zeros_everywhere_works(tmp_path: Path) -> None:
    seen = read(camera(tmp_path, "MJPG", "sloppy 1"))
    assert seen[0]["fps"] is None
    for number, frame in enumerate(of(seen, "frame")):
        check_whole(frame, number)
        assert (frame["index"], frame["missed"]) == (number, 0)
        assert frame["age_s"] < 5


def test_auto_takes_yuyv_where_it_reaches_what_is_asked_else_mjpg(tmp_path: Path) -> None:
    shim = camera(tmp_path).play("MJPG", 160, 120, records("MJPG", SMALLER))
    assert read(shim)[0]["pixel_format"] == "YUYV"
    small = read(shim, options={"width": 160, "height": 120})[0]
    assert (small["pixel_format"], small["width"]) == ("MJPG", 160)
    forced = read(shim, options={"pixel_format": "MJPG", "width": 320, "height": 240})[0]
    assert (forced["pixel_format"], forced["width"]) == ("MJPG", 160)
    assert "width: asked 320, the driver holds 160" in forced["settings"]["note"]


# ---- damaged pictures -------------------------------------------------------------------------------------------

DAMAGE = [
    ("YUYV", "error", "driver-error"),
    ("YUYV", "eio", "driver-error"),
    ("YUYV", "empty", "empty"),
    ("YUYV", "truncate 99", "truncated"),
    ("YUYV", "truncate 50", "truncated"),
    ("YUYV", "truncate 1", "truncated"),
    ("YUYV", "zeros 30", "truncated"),
    ("YUYV", "zeros 90", "truncated"),
    ("MJPG", "error", "driver-error"),
    ("MJPG", "eio", "driver-error"),
    ("MJPG", "empty", "empty"),
    ("MJPG", "truncate 95", "truncated"),
    ("MJPG", "truncate 50", "truncated"),
    ("MJPG", "truncate 12", "truncated"),
    ("MJPG", "truncate 1", "corrupt"),
    ("MJPG", "garbage", "corrupt"),
    ("MJPG", "zeros 50", "truncated"),
    ("MJPG", "oversize", "driver-error"),
]


@pytest.mark.parametrize(("fourcc", "fault", "reason"), DAMAGE, ids=[f"{f}-{x}" for f, x, _ in DAMAGE])
def test_damaged_picture_is_marked_and_the_next_is_whole(tmp_path: Path, fourcc: str, fault: str, reason: str) -> None:
    shim = camera(tmp_path, fourcc, f"fault 4 {fault}", f"fault 7 {fault}", f"fault 8 {fault}")
    frames = of(read(shim), "frame")
    assert [frame["broken"] for frame in frames] == [reason if number in (4, 7, 8) else "" for number in range(12)]
    assert [frame["index"] for frame in frames] == list(range(12))
    for number in (3, 5, 6, 9, 10, 11):
        check_whole(frames[number], number)


@pytest.mark.parametrize("fourcc", FORMATS)
def test_no_unmarked_slot_ever_shows_another_picture(tmp_path: Path, fourcc: str) -> None:
    """300 pictures at a pace, a fault at every third, two at some, the reader pausing now and then."""
    kinds = ["error", "truncate 60", "empty", "zeros 40", "gap 2", "late 800", "frozen 2", "truncate 97", "zero-stamp"]
    kinds += ["garbage", "truncate 20"] if fourcc == "MJPG" else []
    faults = [f"fault {3 * n} {kinds[(n * 7) % len(kinds)]}" for n in range(1, 60)]
    shim = camera(tmp_path, fourcc, *faults, fps=150)
    frames = of(read(shim, frames=200, pause=[[40, 0.1], [90, 0.7], [91, 0.05]], options=AGED), "frame")
    given = shim.faults()
    harmless = {"gap", "frozen", "zero-stamp"}
    whole = 0
    for frame in frames:
        number, faults = given[frame["index"]]
        if not frame["broken"]:
            assert set(faults) <= harmless, frame
            assert (frame["top"], frame["bottom"]) == (number, number)
            assert frame["age_s"] < 0.7
            whole += 1
    assert whole > 100


# ---- numbers and time -------------------------------------------------------------------------------------------


def test_gaps_in_the_drivers_sequence_are_counted(tmp_path: Path) -> None:
    frames = of(read(camera(tmp_path, "YUYV", "fault 5 gap 3", "fault 9 gap 1")), "frame")
    assert [frame["missed"] for frame in frames] == [0] * 5 + [3] + [0] * 3 + [1] + [0, 0]
    assert [frame["index"] for frame in frames[4:7]] == [4, 8, 9]


@pytest.mark.parametrize("lines", [(), ("sloppy 1",)], ids=["kernel-clock", "no-clock"])
def test_pictures_that_lay_there_during_a_pause_are_dropped_and_counted(tmp_path: Path, lines: tuple[str, ...]) -> None:
    shim = camera(tmp_path, "YUYV", *lines, fps=100)
    frames = of(read(shim, frames=10, pause=[[4, 1.5]], options=AGED), "frame")
    passed = frames[5]["top"] + len(PICTURES) - 4 - 1 - 1 if frames[5]["top"] < 5 else frames[5]["top"] - 5
    assert passed >= 4
    assert frames[5]["missed"] >= 4
    if not lines:
        assert frames[5]["missed"] % len(PICTURES) == passed % len(PICTURES)
    assert all(frame["age_s"] < 0.7 for frame in frames)


def test_a_single_old_picture_is_dropped_and_counted(tmp_path: Path) -> None:
    seen = read(camera(tmp_path, "YUYV", "fault 5 late 70000"))
    frames = of(seen, "frame")
    assert [frame["top"] for frame in frames] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]
    assert [frame["missed"] for frame in frames] == [0] * 5 + [1] + [0] * 6


def test_a_read_returns_within_half_a_second_when_no_picture_comes(tmp_path: Path) -> None:
    seen = read(camera(tmp_path, "YUYV", "fault 3 silence 900"), frames=5)
    waits = [entry["waited_s"] for entry in of(seen, "nothing")]
    assert len(waits) >= 1
    assert max(waits) < 0.8
    assert [frame["top"] for frame in of(seen, "frame")] == [0, 1, 2, 4, 5]


def test_a_dqbuf_that_hangs_and_comes_back_gives_no_stale_picture(tmp_path: Path) -> None:
    seen = read(camera(tmp_path, "YUYV", "fault 3 hang 700"), frames=6, options=AGED)
    assert [frame["top"] for frame in of(seen, "frame")] == [0, 1, 2, 5, 6, 7]  # 4 also grew old meanwhile
    assert max(entry["waited_s"] for entry in seen if "waited_s" in entry) > 0.69


# ---- another size -----------------------------------------------------------------------------------------------


def test_one_mjpg_header_of_another_size_is_a_damaged_picture(tmp_path: Path) -> None:
    shim = camera(tmp_path, "MJPG", "fault 4 resize 160 120", "fault 5 resize 320 240")
    shim.play("MJPG", 160, 120, records("MJPG", SMALLER))
    frames = of(read(shim), "frame")
    assert [frame["broken"] for frame in frames] == ["other-size" if number == 4 else "" for number in range(12)]
    assert frames[4]["untouched"]


def test_a_change_of_the_mjpg_size_is_a_loss_and_nothing_is_written(tmp_path: Path) -> None:
    shim = camera(tmp_path, "MJPG", "fault 4 resize 160 120")
    shim.play("MJPG", 160, 120, records("MJPG", SMALLER))
    seen = read(shim, reopen_s=5)
    (lost,) = of(seen, "FormatChanged")
    assert lost["untouched"]
    assert "160x120" in lost["why"]
    assert "320x240" in lost["why"]
    first, again = of(seen, "open")
    assert (again["width"], again["height"]) == (first["width"], first["height"]) == (WIDTH, HEIGHT)
    for frame in of(seen, "frame"):
        assert frame["broken"] in ("", "other-size")
        if not frame["broken"]:
            assert frame["top"] == frame["bottom"]


def test_headers_that_contradict_the_driver_for_good_are_believed_after_the_loss(tmp_path: Path) -> None:
    shim = ShimCamera(tmp_path).play("MJPG", WIDTH, HEIGHT, records("MJPG", SMALLER))
    seen = read(shim, reopen_s=5)
    first, again = of(seen, "open")
    assert (first["width"], again["width"]) == (WIDTH, 160)
    assert "its pictures are 160x120" in again["settings"]["note"]
    whole = [frame for frame in of(seen, "frame") if not frame["broken"]]
    assert len(whole) == 11
    assert all(frame["top"] == frame["bottom"] is not None for frame in whole)


@pytest.mark.parametrize("events", [0, 1])
@pytest.mark.parametrize("size", [(160, 120), (640, 480)], ids=["smaller", "larger"])
def test_a_driver_that_renegotiates_is_a_loss_and_nothing_is_written(
    tmp_path: Path, events: int, size: tuple[int, int]
) -> None:
    shim = camera(tmp_path, "YUYV", f"events {events}", f"fault 4 renegotiate {size[0]} {size[1]}")
    shim.play("YUYV", *size, records("YUYV", numbered(8, *size)))
    seen = read(shim, reopen_s=5)
    (lost,) = of(seen, "FormatChanged")
    assert lost["untouched"]
    opens = of(seen, "open")
    assert [opened["width"] for opened in opens] == [WIDTH, WIDTH]  # the size of the line is asked for again
    assert all(frame["broken"] == "" for frame in of(seen, "frame"))


def test_more_bytes_than_a_picture_has_is_a_change_of_format(tmp_path: Path) -> None:
    seen = read(camera(tmp_path, "YUYV", "fault 4 oversize"), reopen_s=5)
    (lost,) = of(seen, "FormatChanged")
    assert lost["untouched"]
    assert len(of(seen, "frame")) == 12


# ---- unplugged --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fourcc", FORMATS)
@pytest.mark.parametrize("node", [0, 7])
def test_unplugged_camera_is_found_again_under_the_same_or_another_number(
    tmp_path: Path, fourcc: str, node: int
) -> None:
    seen = read(camera(tmp_path, fourcc, f"fault 5 unplug 200 {node}"), reopen_s=5)
    (lost,) = of(seen, "CameraLost")
    assert "not there" in lost["why"]
    assert lost["untouched"]
    first, again = of(seen, "open")
    assert (first["settings"]["device"], again["settings"]["device"]) == ("/dev/video0", f"/dev/video{node}")
    assert "note" not in again["settings"]
    frames = of(seen, "frame")
    assert [frame["top"] for frame in frames] == [0, 1, 2, 3, 4, *range(6, 13)]
    assert all(frame["broken"] == "" for frame in frames)


def test_unplugged_again_and_again_always_comes_back(tmp_path: Path) -> None:
    faults = [f"fault {6 * n} unplug 20 {n % 5}" for n in range(1, 15)]
    seen = read(camera(tmp_path, "MJPG", *faults), frames=60, reopen_s=5)
    assert len(of(seen, "open")) >= 12
    assert all(frame["top"] == frame["bottom"] is not None for frame in of(seen, "frame"))


def test_another_camera_that_took_the_number_is_not_taken_for_ours(tmp_path: Path) -> None:
    ours = camera(tmp_path, "YUYV", "fault 5 steal 9", "fault 5 unplug 150 4")
    other = camera(tmp_path, "YUYV", node=9, card="Another", bus="usb-port-2")
    seen = read([ours, other], reopen_s=5)
    again = of(seen, "open")[1]["settings"]
    assert (again["device"], again["card"]) == ("/dev/video4", "Shim Camera")
    assert not other.happened("start")


def test_while_ours_is_away_the_message_names_who_is_there_instead(tmp_path: Path) -> None:
    ours = camera(tmp_path, "YUYV", "fault 5 steal 9", "fault 5 unplug 0 4")
    other = camera(tmp_path, "YUYV", node=9, card="Another", bus="usb-port-2")
    last = read([ours, other], reopen_s=0.3)[-1]
    assert last["kind"] == "CameraLost"
    assert "waiting for Shim Camera on usb-shim-0" in last["why"]
    assert "/dev/video0 (Another on usb-port-2)" in last["why"]
    assert not other.happened("start")


def test_a_replaced_camera_on_the_same_port_is_taken_with_a_note(tmp_path: Path) -> None:
    seen = read(camera(tmp_path, "YUYV", "fault 5 unplug 50 0", "back-as Newer Camera,usb-shim-0"), reopen_s=5)
    settings = of(seen, "open")[1]["settings"]
    assert settings["card"] == "Newer Camera"
    assert settings["note"] == "another camera on the same port: it was Shim Camera on usb-shim-0"


@pytest.mark.parametrize("node", [0, 3])
def test_the_only_camera_may_move_to_another_port_with_a_note(tmp_path: Path, node: int) -> None:
    seen = read(camera(tmp_path, "YUYV", f"fault 5 unplug 50 {node}", "back-as Shim Camera,usb-port-8"), reopen_s=5)
    assert "moved" in of(seen, "open")[1]["settings"]["note"]


def test_with_two_cameras_of_one_kind_a_moved_plug_is_not_guessed(tmp_path: Path) -> None:
    ours = camera(tmp_path, "YUYV", "fault 5 unplug 50 0", "back-as Shim Camera,usb-port-8")
    twin = camera(tmp_path, "YUYV", node=2)
    last = read([ours, twin], reopen_s=0.5)[-1]
    assert last["kind"] == "CameraLost"
    assert "/dev/video0 (Shim Camera on usb-port-8), /dev/video2 (Shim Camera on usb-shim-2)" in last["why"]


def test_the_metadata_node_of_the_same_camera_is_not_taken_for_it(tmp_path: Path) -> None:
    ours = camera(tmp_path, "YUYV", "fault 5 unplug 50 3")
    meta = camera(tmp_path, "YUYV", "kind metadata", node=1, bus="usb-shim-0")
    assert of(read([ours, meta], reopen_s=5), "open")[1]["settings"]["device"] == "/dev/video3"


# ---- a device that does not open --------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["open", "format", "buffers", "start"])
def test_a_busy_camera_is_lost_for_now_and_says_so(tmp_path: Path, at: str) -> None:
    shim = camera(tmp_path, "YUYV", f"busy {at} 1")
    (refused,) = read(shim)
    assert refused["kind"] == "CameraLost"
    assert "busy" in refused["why"]
    assert len(of(read(shim.write(f"busy {at} 3"), patience_s=5), "frame")) == 12


REFUSED = [
    ("kind denied", "/dev/video0", "BadSource", "group `video`"),
    ("kind metadata", "/dev/video0", "BadSource", "does not stream pictures"),
    ("kind planes", "/dev/video0", "BadSource", "use a gst: source"),
    ("kind foreign", "/dev/video0", "BadSource", "not a video device"),
    ("kind camera", "/dev/video5", "CameraLost", "cameras found: /dev/video0 (Shim Camera)"),
    ("kind camera", "5", "CameraLost", "/dev/video5"),
    ("kind camera", "/dev/null", "BadSource", "not a video device"),
    ("kind camera", "/dev", "BadSource", "not a video device"),
    ("kind camera", "/dev/v4l/by-id/usb-none-index0", "CameraLost", "cameras found: /dev/video0"),
]


@pytest.mark.parametrize(("line", "device", "kind", "said"), REFUSED)
def test_what_cannot_be_opened_is_one_clear_line(tmp_path: Path, line: str, device: str, kind: str, said: str) -> None:
    (refused,) = read(camera(tmp_path, "YUYV", line), device=device)
    assert refused["kind"] == kind
    assert said in refused["why"]
    assert "\n" not in refused["why"]


def test_a_camera_without_a_format_we_read_names_what_it_offers(tmp_path: Path) -> None:
    (refused,) = read(ShimCamera(tmp_path).play("NV12", WIDTH, HEIGHT, [b"x"]))
    assert refused["kind"] == "BadSource"
    assert "offers NV12" in refused["why"]


# ---- controls ---------------------------------------------------------------------------------------------------

EXPOSURE_AUTO, EXPOSURE, AUTOGAIN, GAIN, AUTO_WB, WB = 0x9A0901, 0x9A0902, 0x980912, 0x980913, 0x98090C, 0x98091A


def test_exposure_gain_and_white_balance_are_held_and_read_back(tmp_path: Path) -> None:
    shim = camera(tmp_path, "YUYV", f"control {EXPOSURE_AUTO} 3 0 3", f"control {EXPOSURE} 156 1 5000")
    shim.write(f"control {AUTOGAIN} 1 0 1", f"control {GAIN} 10 0 100", f"control {AUTO_WB} 1 0 1")
    shim.write(f"control {WB} 4000 2800 6500")
    options = {"exposure_us": 2000, "gain": 400, "white_balance_k": 5200}
    settings = read(shim, options=options)[0]["settings"]
    assert (settings["exposure_us"], settings["gain"], settings["white_balance_k"]) == (2000, 100, 5200)
    assert settings["note"] == "gain: asked 400, the driver holds 100"
    order = [(int(line[1]), int(line[2])) for line in shim.happened("control")]
    assert order == [(EXPOSURE_AUTO, 1), (EXPOSURE, 20), (AUTOGAIN, 0), (GAIN, 100), (AUTO_WB, 0), (WB, 5200)]


@pytest.mark.parametrize("line", ["sloppy 0", "sloppy 1"])
def test_controls_that_the_driver_lacks_are_reported_and_inspection_goes_on(tmp_path: Path, line: str) -> None:
    seen = read(camera(tmp_path, "YUYV", line), options={"exposure_us": 2000, "gain": 4})
    assert seen[0]["settings"]["exposure_us"] is None
    assert "exposure_us: asked 2000, this driver has no such control" in seen[0]["settings"]["note"]
    assert len(of(seen, "frame")) == 12


# ---- nothing is left behind -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("fourcc", FORMATS)
def test_two_hundred_opens_leave_no_file_no_mapping_and_no_memory(tmp_path: Path, fourcc: str) -> None:
    (told,) = read(camera(tmp_path, fourcc), cycles=200)
    (rss_before, files_before, maps_before), (rss_after, files_after, maps_after) = told["before"], told["after"]
    assert files_after == files_before
    assert maps_after == maps_before == 0
    assert rss_after - rss_before < 1_000_000


@pytest.mark.parametrize("fault", ["unplug 5 0", "oversize", "renegotiate 160 120"])
def test_forty_losses_leave_no_file_and_no_mapping(tmp_path: Path, fault: str) -> None:
    faults = [f"fault {3 * n} {fault}" for n in range(1, 41)]
    shim = camera(tmp_path, "YUYV", *faults).play("YUYV", 160, 120, records("YUYV", SMALLER))
    seen = read(shim, frames=70, reopen_s=5)
    counted = [(entry["files"], entry["mappings"]) for entry in of(seen, "open")]
    assert len(counted) > 25
    assert set(counted[1:]) == {counted[1]}
