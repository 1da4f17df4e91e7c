"""The units: every line understood, exposure within its bound, what they promise about watchdog, devices, secrets."""

from __future__ import annotations

import configparser
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from edge_inspect.health.notify import MAX_AGE_S
from edge_inspect.update.probe import STATE_OF_UNITS, service_of
from edge_wire.onnx_gate import MOST_FILE_BYTES

SYSTEMD = Path(__file__).resolve().parent.parent / "systemd"
UNITS = ("edge-inspect.service", "edge-inspect@.service")
FETCH = "edge-inspect-fetch.service"
PROBE, PROBE_SOCKET = "edge-inspect-probe.service", "edge-inspect-probe.socket"
TEMPLATES = {name: name.replace(".", "@.") for name in (UNITS[0], FETCH, PROBE, PROBE_SOCKET)}
BESIDE = {UNITS[0]: (FETCH, PROBE, PROBE_SOCKET), UNITS[1]: tuple(TEMPLATES[u] for u in (FETCH, PROBE, PROBE_SOCKET))}
"""Each daemon's fetcher and probe."""


class Unit(configparser.RawConfigParser):
    """A unit file; a key that stands several times keeps all of its values, one a line."""

    def __init__(self, path: Path) -> None:
        super().__init__(strict=False, dict_type=_Gathering, comment_prefixes=("#",), interpolation=None)
        self.optionxform = str  # type: ignore[assignment,method-assign]
        self.read(path)

    def all(self, key: str) -> list[str]:
        return self.get("Service", key).split("\n")


class _Gathering(dict):  # type: ignore[type-arg]
    def __setitem__(self, key: object, value: object) -> None:
        if isinstance(value, list) and key in self and isinstance(self[key], list):
            self[key].extend(value)
        else:
            super().__setitem__(key, value)


@pytest.fixture
def analyze() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (Debian, Ubuntu: package systemd)")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=60)


def test_units_verify_and_keep_their_exposure_low(analyze: None) -> None:
    checked = run(SYSTEMD / "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    said = [line.split(" for ")[1].split(": ") for line in checked.stdout.splitlines()]
    exposures = {unit: float(figure.split()[0]) for unit, figure in said}
    services = {path.name for path in SYSTEMD.glob("*.service")}
    assert services <= {unit.replace("@left", "@") for unit in exposures}
    assert max(exposures.values()) <= 1.5
    for name, most in ((FETCH, 1.2), (PROBE, 0.5)):
        assert max(exposures[name], exposures[name.replace(".", "@left.")]) <= most


def test_fetcher_has_the_network_no_devices_and_writes_only_models() -> None:
    unit = Unit(SYSTEMD / FETCH)
    service = unit["Service"]
    assert service["PrivateDevices"] == "yes"
    assert not [key for key in service if key in ("DeviceAllow", "ReadWritePaths", "LoadCredential")]
    assert (service["ProtectSystem"], service["StateDirectory"]) == ("strict", "edge-inspect/models")
    assert service["User"] == Unit(SYSTEMD / UNITS[0])["Service"]["User"]
    assert "SupplementaryGroups" not in service
    assert (service["Type"], service["Restart"], service["WatchdogSignal"]) == ("notify", "always", "SIGABRT")
    assert service["RestartPreventExitStatus"].split() == ["64", "78"]


def test_fetcher_has_room_for_the_largest_model_that_the_gate_lets_through() -> None:
    """Else it would be ended by the kernel at each look, and nobody would hear why nothing comes."""
    service = Unit(SYSTEMD / FETCH)["Service"]
    soft, hard = (_bytes(service[key]) for key in ("MemoryHigh", "MemoryMax"))
    assert MOST_FILE_BYTES + (200 << 20) <= soft < hard


def _bytes(size: str) -> int:
    return int(size[:-1]) << {"M": 20, "G": 30}[size[-1]]


def test_probe_has_no_network_no_devices_and_nothing_to_write() -> None:
    service = Unit(SYSTEMD / PROBE)["Service"]
    assert (service["PrivateNetwork"], service["PrivateDevices"], service["LimitFSIZE"]) == ("yes", "yes", "0")
    assert (service["ProtectSystem"], service["ReadOnlyPaths"]) == ("strict", "/")
    assert not [key for key in service if key.endswith("Directory") or key in ("ReadWritePaths", "LoadCredential")]
    listener = Unit(SYSTEMD / PROBE_SOCKET)["Socket"]
    assert (listener["SocketUser"], listener["SocketMode"], listener["Accept"]) == ("edge-inspect", "0600", "no")


@pytest.mark.parametrize("daemon", UNITS)
def test_probe_and_fetcher_see_the_models_of_the_daemon_beside_them(daemon: str) -> None:
    """Else each good candidate would be one that is not there."""
    instance = "left" if "@" in daemon else ""
    fetch, probe, listener = (Unit(SYSTEMD / name) for name in BESIDE[daemon])
    state = Path("/var/lib") / Unit(SYSTEMD / daemon)["Service"]["StateDirectory"].replace("%i", "left")
    assert state == STATE_OF_UNITS / instance
    assert probe["Service"]["BindReadOnlyPaths"].replace("%i", "left") == f"-{state / 'models'}"
    assert Path("/var/lib") / fetch["Service"]["StateDirectory"].replace("%i", "left") == state / "models"
    assert f"STATE_DIRECTORY={state}" in fetch["Service"]["Environment"].replace("%i", "left").split()
    assert listener["Socket"]["ListenStream"].replace("%i", "left") == str(service_of(state))
    configured = {unit["Service"]["ExecStart"].split("--config ")[1] for unit in (fetch, Unit(SYSTEMD / daemon))}
    assert len(configured) == 1
    assert probe["Unit"]["Requires"] == BESIDE[daemon][2].replace("@", "@%i")


@pytest.mark.parametrize("name", [PROBE, TEMPLATES[PROBE]])
def test_probe_sees_nothing_else_of_the_daemon(name: str) -> None:
    unit = Unit(SYSTEMD / name)
    assert unit["Service"]["TemporaryFileSystem"].split() == ["/var/lib:ro", "/etc/edge-inspect:ro"]
    assert len(unit.all("BindReadOnlyPaths")) == 1 and "BindPaths" not in unit["Service"]
    assert "-/run/edge-inspect" in unit["Service"]["InaccessiblePaths"].split(), "the sockets of line and status"


@pytest.mark.parametrize("at", [PROBE, TEMPLATES[PROBE]])
def test_a_broken_probe_is_not_started_for_ever(at: str) -> None:
    """The request that it did not take waits on the socket, and starts it again at once."""
    service, listener = Unit(SYSTEMD / at)["Unit"], Unit(SYSTEMD / at.replace(".service", ".socket"))["Socket"]
    assert int(service["StartLimitIntervalSec"]) / int(service["StartLimitBurst"]) >= 20
    assert int(listener["TriggerLimitIntervalSec"]) > 0 and int(listener["TriggerLimitBurst"]) > 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("WatchdogSec=10", "WatchdogSecs=10"), "Unknown key"),
        (("bin/python -I", "bin/pithon -I"), "not executable"),
        (("NoNewPrivileges=yes\nCapabilityBoundingSet=\n", ""), ""),
    ],
)
def test_check_notices_a_unit_that_is_wrong(change: tuple[str, str], says: str, analyze: None, tmp_path: Path) -> None:
    for name in (*BESIDE[UNITS[0]], *BESIDE[UNITS[1]]):
        shutil.copy(SYSTEMD / name, tmp_path)
    for name in UNITS:
        text = (SYSTEMD / name).read_text()
        assert change[0] in text
        (tmp_path / name).write_text(text.replace(*change))
    checked = run(SYSTEMD / "check", tmp_path)
    assert checked.returncode == 1, checked.stdout
    assert says in checked.stderr


@pytest.mark.parametrize("name", UNITS)
def test_unit_restarts_what_hangs_and_not_what_is_misconfigured(name: str) -> None:
    unit = Unit(SYSTEMD / name)
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["Restart"] == "always"
    assert service["RestartPreventExitStatus"].split() == ["64", "78"]
    assert service["WatchdogSignal"] == "SIGABRT"
    assert "faulthandler" in service["ExecStart"]
    # a hang is noticed within 15 s: the oldest beat that still feeds, then systemd's own patience
    assert MAX_AGE_S + float(service["WatchdogSec"]) <= 15
    # more than the 10 s that the daemon may take to stop
    assert float(service["TimeoutStopSec"]) > 10


@pytest.mark.parametrize("name", UNITS)
def test_unit_reaches_cameras_gpus_and_wires_and_nothing_else(name: str) -> None:
    unit = Unit(SYSTEMD / name)
    assert unit["Service"]["DevicePolicy"] == "closed"
    devices = unit.all("DeviceAllow")
    assert "char-video4linux rw" in devices
    known = ("char-nv", "char-drm", "char-video4linux", "char-gpiochip", "/dev/nvmap")
    assert all(device.startswith(known) for device in devices)
    assert unit["Service"]["SupplementaryGroups"].split() == ["video", "render"]


def test_template_keeps_cameras_apart() -> None:
    service = Unit(SYSTEMD / "edge-inspect@.service")["Service"]
    for key in ("StateDirectory", "CacheDirectory", "RuntimeDirectory", "ExecStart", "Environment"):
        assert "%i" in service[key], key


@pytest.mark.parametrize(("alone", "template"), TEMPLATES.items())
def test_both_units_differ_only_in_the_instance(alone: str, template: str) -> None:
    one, each = (
        [line for line in (SYSTEMD / name).read_text().splitlines() if not line.startswith("#")]
        for name in (alone, template)
    )
    different = [line for line in each if line not in one]
    assert all("%i" in line for line in different), different
    assert len(each) == len(one)


def test_install_lays_out_users_folders_and_secrets(tmp_path: Path) -> None:
    if os.getuid() != 0 or shutil.which("systemd-sysusers") is None:
        pytest.skip("needs root and systemd-sysusers, systemd-tmpfiles")
    done = run(SYSTEMD / "install", "--units-only", "--root", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "edge-inspect:x:" in (tmp_path / "etc/passwd").read_text()
    groups = {line.split(":")[0]: line.split(":")[3] for line in (tmp_path / "etc/group").read_text().splitlines()}
    assert groups["video"] == groups["render"] == "edge-inspect"
    secrets = tmp_path / "etc/edge-inspect/credentials"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    loaded = [line.partition(":")[2] for line in Unit(SYSTEMD / UNITS[0]).all("LoadCredential")]
    assert loaded
    for path in loaded:
        assert stat.S_IMODE((tmp_path / path.lstrip("/")).stat().st_mode) == 0o600
    for name in (*TEMPLATES, *TEMPLATES.values()):
        assert (tmp_path / "etc/systemd/system" / name).is_file()


@pytest.mark.parametrize(("extra", "there"), [("openvino,line", True), ("cpu", False)])
def test_a_runtime_that_compiles_may_do_so(tmp_path: Path, extra: str, there: bool) -> None:
    if os.getuid() != 0 or shutil.which("systemd-sysusers") is None:
        pytest.skip("needs root and systemd-sysusers, systemd-tmpfiles")
    drop_in = tmp_path / "etc/systemd/system/edge-inspect.service.d/compiles-at-run-time.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("of the runtime before")
    done = run(SYSTEMD / "install", "--units-only", "--extra", extra, "--root", tmp_path)
    assert (done.returncode, drop_in.is_file()) == (0, there), done.stderr
    assert not there or "MemoryDenyWriteExecute=no" in drop_in.read_text()


def test_install_refuses_an_option_it_does_not_know() -> None:
    done = run(SYSTEMD / "install", "--frobnicate")
    assert (done.returncode, "unknown option --frobnicate" in done.stderr) == (64, True)


@pytest.mark.parametrize("name", UNITS)
def test_daemon_outweighs_what_runs_beside_it(name: str) -> None:
    daemon = Unit(SYSTEMD / name)
    for share in ("CPUWeight", "IOWeight"):
        fetch = int(Unit(SYSTEMD / BESIDE[name][0]).all(share)[0])
        assert int(daemon.all(share)[0]) > 100 > fetch, f"{share}: 100 is everybody's"
