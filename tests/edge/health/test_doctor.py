"""Each check is shown boxes in order and out of order, and says what to do about the second kind."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_inspect.cli import run_command
from edge_inspect.config import MqttConfig, config_from_options
from edge_inspect.config_model import CameraConfig
from edge_inspect.health import check_box
from edge_inspect.health.check_box import (
    check_camera,
    check_clock,
    check_mlock,
    check_state_dir,
    file_system_of,
)
from edge_inspect.health.check_broker import check_broker, check_secrets
from edge_inspect.health.check_runtime import (
    check_cpu,
    check_faster,
    check_model,
    check_providers,
    check_python,
    check_runtime_installed_once,
    cpu_of,
    is_jetson,
    nvidia_driver_there,
)
from edge_inspect.health.doctor import examine
from edge_inspect.health.findings import Finding, State
from edge_inspect.inference.providers import Offer
from tests.mosquitto import Mosquitto
from tests.sim.tiny_model import write_tiny_package

XEON = "processor : 0\nmodel name\t: Intel(R) Xeon(R) Platinum\nflags\t\t: fpu avx2 avx512f amx_tile amx_bf16\n"
ORIN = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm bf16\nCPU implementer\t: 0x41\n"

CPU = Offer("cpu", True, "onnxruntime 1.31.1")
NO_OPENVINO = Offer("openvino", False, "not installed: pip install 'edge-inspect[openvino]'")
OPENVINO = Offer("openvino", True, "openvino 2026.4.1")
NO_CUDA = Offer("cuda", False, "this onnxruntime has no CUDAExecutionProvider")
CUDA = Offer("cuda", True, "onnxruntime 1.31.1")


def test_old_python_fails() -> None:
    assert check_python((3, 9)).state is State.FAIL
    assert check_python((3, 10)).state is State.OK


def test_two_runtimes_that_overwrite_each_other_fail() -> None:
    finding = check_runtime_installed_once({"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.30.0"}, [CPU])
    assert finding.state is State.FAIL
    assert "onnxruntime 1.31.1, onnxruntime-gpu 1.30.0" in finding.what
    assert finding.mend.startswith("pip uninstall -y onnxruntime onnxruntime-gpu")


def test_no_runtime_fails_and_names_the_extra() -> None:
    finding = check_runtime_installed_once({}, [Offer("cpu", False, "not installed")])
    assert (finding.state, finding.mend) == (State.FAIL, "pip install 'edge-inspect[cpu]'")


def test_openvino_alone_is_a_runtime() -> None:
    assert check_runtime_installed_once({}, [OPENVINO]) == Finding("runtime", State.OK, "openvino 2026.4.1")


def test_provider_that_is_asked_for_and_not_there_fails() -> None:
    assert check_providers([CPU, NO_CUDA], "cuda").state is State.FAIL
    finding = check_providers([NO_CUDA, OPENVINO, CPU], "auto")
    assert finding.state is State.OK
    assert finding.what.endswith("auto takes openvino")
    assert check_providers([NO_CUDA], "auto").state is State.FAIL


@pytest.mark.parametrize(
    ("offers", "wanted", "flags", "nvidia", "jetson", "mend"),
    [
        (
            [CPU, NO_OPENVINO, NO_CUDA],
            "auto",
            ["avx2", "amx_tile"],
            False,
            False,
            "pip install 'edge-inspect[openvino]'",
        ),
        ([CPU, NO_OPENVINO, NO_CUDA], "auto", ["avx2"], True, False, "pip uninstall -y onnxruntime; pip install 'edge"),
        ([CPU, NO_OPENVINO, NO_CUDA], "auto", ["asimddp"], False, True, "install JetPack's own"),
        ([CPU, OPENVINO, NO_CUDA], "cpu", ["avx2"], False, False, 'set model.provider = "auto"'),
        ([CPU, OPENVINO, NO_CUDA], "auto", ["avx2"], False, False, ""),
        ([CPU, NO_OPENVINO, CUDA], "auto", ["avx2"], True, False, ""),
        ([CPU, NO_OPENVINO, NO_CUDA], "auto", ["asimddp"], False, False, ""),
    ],
)
def test_what_would_be_faster_is_told_with_the_command_that_brings_it(
    offers: list[Offer], wanted: str, flags: list[str], nvidia: bool, jetson: bool, mend: str
) -> None:
    (finding,) = check_faster(offers, wanted, flags, nvidia_driver=nvidia, jetson=jetson)
    assert finding.mend.startswith(mend)
    assert (finding.state is State.OK) == (mend == "")


def test_cpu_features_are_read_on_x86_and_arm() -> None:
    assert cpu_of(XEON) == ("Intel(R) Xeon(R) Platinum", ("avx2", "avx512f", "amx_tile", "amx_bf16"))
    assert cpu_of(ORIN) == ("unknown CPU", ("asimddp", "i8mm", "bf16"))
    assert "2 core(s)" in check_cpu(XEON, 2).what


def test_gpu_and_jetson_are_seen_in_proc(tmp_path: Path) -> None:
    assert not nvidia_driver_there(tmp_path)
    assert not is_jetson(tmp_path)
    (tmp_path / "driver/nvidia").mkdir(parents=True)
    (tmp_path / "driver/nvidia/version").write_text("NVRM version: 570\n")
    (tmp_path / "device-tree").mkdir()
    (tmp_path / "device-tree/model").write_text("NVIDIA Jetson AGX Orin\0")
    assert nvidia_driver_there(tmp_path)
    assert is_jetson(tmp_path)


def test_model_that_answers_rightly_is_timed(tmp_path: Path) -> None:
    findings = list(check_model(str(write_tiny_package(tmp_path / "tiny")), "cpu", 1, (1080, 1920)))
    assert [finding.state for finding in findings] == [State.OK, State.OK]
    assert findings[1].what.startswith("right on cpu, 160x96, ")


def test_model_that_was_touched_fails(tmp_path: Path) -> None:
    package = write_tiny_package(tmp_path / "tiny")
    (package / "model.onnx").write_bytes((package / "model.onnx").read_bytes()[:-1] + b"x")
    (finding,) = check_model(str(package), "cpu", 1, (1080, 1920))
    assert (finding.check, finding.state) == ("model", State.FAIL)


def test_model_that_is_not_there_fails_and_says_so_in_one_line(tmp_path: Path) -> None:
    (finding,) = check_model(str(tmp_path / "none"), "auto", 0, (1080, 1920))
    assert finding.state is State.FAIL
    assert "\n" not in finding.what


def camera(source: str) -> CameraConfig:
    return CameraConfig(name="left", source=source)


def test_missing_camera_names_the_reason() -> None:
    finding = check_camera(camera("/dev/video-not-there"))
    assert finding.state is State.FAIL
    assert "No such file" in finding.what
    assert "camera list" in finding.mend


def test_camera_without_permission_names_the_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(check_box.os, "open", refuse)
    finding = check_camera(camera("/dev/video0"))
    assert finding.state is State.FAIL
    assert "usermod -aG" in finding.mend


def test_network_camera_is_asked_whether_it_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert check_camera(camera(f"rtsp://127.0.0.1:{port}/x")).state is State.OK
    assert check_camera(camera(f"rtsp://127.0.0.1:{port}/x")).state is State.FAIL


DISK = "29 1 8:1 / / rw - ext4 /dev/sda1 rw\n"


def test_state_dir_on_a_disk_is_fine_and_left_as_it_was(tmp_path: Path) -> None:
    findings = list(check_state_dir(tmp_path / "state", 1 << 20, DISK))
    assert {finding.check: finding.state for finding in findings} == dict.fromkeys(
        ("state", "disk", "sqlite"), State.OK
    )
    assert "on ext4, fsync" in findings[0].what
    assert list((tmp_path / "state").iterdir()) == []


def test_state_dir_in_memory_is_a_warning(tmp_path: Path) -> None:
    mounts = DISK + f"30 29 0:5 / {tmp_path} rw shared:1 - tmpfs tmpfs rw\n"
    first = next(iter(check_state_dir(tmp_path, 1 << 20, mounts)))
    assert (first.state, "tmpfs" in first.what) == (State.WARN, True)


def test_state_dir_that_cannot_be_made_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (finding,) = check_state_dir(tmp_path / "file" / "state", 1 << 20, DISK)
    assert finding.state is State.FAIL


def test_disk_too_small_for_the_outbox_is_a_warning(tmp_path: Path) -> None:
    findings = list(check_state_dir(tmp_path, 1 << 60, DISK))
    assert findings[1].state is State.WARN
    assert "cap_bytes" in findings[1].mend


def test_file_system_is_that_of_the_innermost_mount(tmp_path: Path) -> None:
    mounts = DISK + "30 29 0:5 / /mnt/my\\040disk rw - xfs /dev/sdb rw\nnonsense\n"
    assert file_system_of(Path("/mnt/my disk/state"), mounts) == "xfs"
    assert file_system_of(Path("/mnt"), mounts) == "ext4"
    assert file_system_of(Path("/mnt"), "") == ""


def test_memory_that_cannot_be_locked_is_a_warning() -> None:
    plain, root = "Name: python\nCapEff:\t0000000000000000\n", "CapEff:\t000001ffffffffff\n"
    assert check_mlock([camera("0")], 8 << 20, plain).state is State.WARN
    assert check_mlock([camera("0")], 64 << 20, plain).state is State.OK
    assert check_mlock([camera("0")], -1, plain).state is State.OK
    assert check_mlock([camera("0")], 8 << 20, root).state is State.OK


@pytest.mark.parametrize(("kernel", "state"), [(0, State.OK), (5, State.WARN), (None, State.OK)])
def test_clock_that_is_not_synchronized_is_a_warning(
    kernel: int | None, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_box, "_adjtimex", lambda: kernel)
    assert check_clock().state is state


def test_no_broker_is_a_warning_and_a_dead_one_fails() -> None:
    assert check_broker(None, "edge").state is State.WARN
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    finding = check_broker(MqttConfig(url=f"mqtt://127.0.0.1:{port}"), "edge")
    assert finding.state is State.FAIL
    assert "127.0.0.1" in finding.what
    assert "\n" not in finding.what


def test_living_broker_takes_us_and_one_with_passwords_does_not(new_mosquitto: Callable[..., Mosquitto]) -> None:
    open_to_all, closed = new_mosquitto().start(), new_mosquitto(anonymous=False).start()
    for protocol, name in ((5, "MQTT 5"), (311, "MQTT 3.1.1")):
        finding = check_broker(MqttConfig(url=open_to_all.url, protocol=protocol), "edge")
        assert (finding.state, name in finding.what) == (State.OK, True)
        assert check_broker(MqttConfig(url=closed.url, protocol=protocol), "edge").state is State.FAIL


def test_secret_that_others_may_read_is_a_warning(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k")
    key.chmod(0o644)
    assert check_secrets([key]).mend == f"chmod 600 {key}"
    key.chmod(0o600)
    assert check_secrets([key, tmp_path / "gone"]).state is State.OK


@pytest.fixture
def quiet_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    yield tmp_path


def test_examination_has_every_check_once(quiet_home: Path) -> None:
    names = [finding.check for finding in examine(config_from_options(camera="sim"))]
    assert len(names) == len(set(names))
    assert {"python", "runtime", "providers", "cpu", "faster", "model", "camera camera", "state", "sqlite"} <= set(
        names
    )
    assert {"memory lock", "clock", "broker", "metrics", "secrets", "disk"} <= set(names)


def test_doctor_prints_findings_and_one_json_object(quiet_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["doctor", "--camera", "/dev/video-not-there", "--json"]) == 1
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["ok"] is False
    failed = [finding for finding in result["findings"] if finding["check"] == "camera camera"]
    assert failed[0]["state"] == "fail"
    assert failed[0]["mend"]
    assert "camera camera" in err


def test_doctor_without_anything_to_complain_of_exits_0(quiet_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["doctor", "--camera", "sim", "--state", str(quiet_home)]) == 0
    assert "python" in capsys.readouterr().out
    assert os.listdir(quiet_home) == []
