"""A candidate that crashes, hangs or eats memory while it is loaded takes only the probe's process with it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from edge_inspect.cli.probe import run_command
from edge_inspect.errors import BadModel
from edge_inspect.update.examine import Probed, Request
from edge_inspect.update.probe import ProbeLimits, answer_of, probe, room_in_group_bytes
from tests.edge.update import packages
from tests.edge.update.packages import package

pytest.importorskip("onnxruntime", reason="no runtime is installed (extra `cpu`)")

FAULTY = Path(__file__).parent / "faulty_child.py"
PATIENT = ProbeLimits(seconds=120.0, memory_bytes=2 << 30)
"""For those that are to come to an end by themselves, on a slow and busy machine."""


@pytest.fixture(scope="module")
def active(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(tmp_path_factory.mktemp("models") / "active")


@pytest.fixture(scope="module")
def candidate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(tmp_path_factory.mktemp("models") / "candidate")


def on_cpu(**how: Any) -> Request:
    return Request(Path(), **{"provider": "cpu", "threads": 1, "latency_factor": 50.0} | how)


def faulty(candidate: Path, fault: str, *words: str, limits: ProbeLimits = PATIENT) -> BadModel:
    command = (sys.executable, "-I", str(FAULTY), fault, *words)
    with pytest.raises(BadModel) as refused:
        probe(candidate, model=on_cpu(), limits=limits, command=command)
    line = str(refused.value)
    assert "\n" not in line and line.startswith(str(candidate)) and line.endswith(f"[{refused.value.code}]")
    return refused.value


@pytest.fixture(scope="module")
def probed(candidate: Path, active: Path) -> Probed:
    return probe(candidate, model=on_cpu(), golden_of=active, limits=PATIENT)


def test_good_candidate_comes_back_with_what_it_costs(probed: Probed) -> None:
    assert (probed.provider, probed.variants, probed.remark) == ("cpu", ("model.onnx",), "")
    assert probed.latency_p50_ms > 0 and probed.active_p50_ms > 0


@pytest.mark.parametrize(
    ("fault", "code", "says"),
    [
        ("segv", "probe-crash", "SIGSEGV"),
        ("abort", "probe-crash", "SIGABRT"),
        ("silent", "probe-crash", "exit code 0"),
        ("hog", "probe-memory", "more memory"),
    ],
)
def test_process_that_is_lost_is_a_refusal(fault: str, code: str, says: str, candidate: Path) -> None:
    refused = faulty(candidate, fault, limits=ProbeLimits(120.0, 256 << 20))
    assert (refused.code, says in str(refused)) == (code, True), str(refused)


@pytest.mark.parametrize(
    ("returncode", "said", "complained", "code", "says"),
    [
        (0, b'{"ok": "yes"}\n', "", "probe-crash", "exit code 0"),
        (0, b"[1]", "", "probe-crash", "exit code 0"),
        (-11, b'{"ok": true}\n', "", "probe-crash", "SIGSEGV"),
        (1, b"", "Traceback\nKeyError: 'no such key'\n", "probe-crash", "KeyError"),
        (-6, b"", "terminate called after throwing an instance of 'std::bad_alloc'\n", "probe-memory", "bad_alloc"),
        (-24, b"", "", "probe-hang", "CPU time"),
    ],
)
def test_no_answer_is_an_answer(returncode: int, said: bytes, complained: str, code: str, says: str) -> None:
    answer = answer_of(returncode, said, complained)
    assert (answer["ok"], answer["code"], says in answer["message"]) == (False, code, True)


def test_hang_ends_at_the_deadline(candidate: Path) -> None:
    started = time.monotonic()
    assert faulty(candidate, "hang", limits=ProbeLimits(seconds=3.0)).code == "probe-hang"
    assert time.monotonic() - started < 60


def test_nothing_of_it_is_left_running(candidate: Path) -> None:
    assert faulty(candidate, "grandchild").code == "probe-crash"
    left = [p for p in psutil.process_iter(["cmdline"]) if str(FAULTY) in (p.info["cmdline"] or [])]
    assert [p.pid for p in left if p.status() != psutil.STATUS_ZOMBIE] == []


def test_it_writes_no_file(candidate: Path, tmp_path: Path) -> None:
    refused = faulty(candidate, "write", str(tmp_path / "written"))
    assert "File too large" in str(refused)
    assert not (tmp_path / "written").exists() or (tmp_path / "written").stat().st_size == 0


def test_it_has_no_network_where_the_kernel_allows_to_cut_it(candidate: Path, probed: Probed) -> None:
    if probed.network != "cut off":
        pytest.skip("this kernel lets no ordinary user make a network namespace")
    with socket.create_server(("127.0.0.1", 0)) as server:
        refused = faulty(candidate, "connect", str(server.getsockname()[1]))
    assert "unreachable" in str(refused)


def test_resident_memory_is_watched_from_outside_too(candidate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where addresses cannot be limited, as with a GPU's driver."""
    limits = ProbeLimits(seconds=120.0, memory_bytes=400 << 20)
    really = json.dumps

    def much_address_space(value: Any, **how: Any) -> str:
        if "address_space_bytes" in value:
            value = value | {"address_space_bytes": 8 << 30}
        return really(value, **how)

    monkeypatch.setattr("edge_inspect.update.probe.json.dumps", much_address_space)
    refused = faulty(candidate, "resident-hog", limits=limits)
    assert refused.code == "probe-memory" and "of memory in all" in str(refused)


def test_it_takes_no_more_than_systemd_gives_the_daemon(tmp_path: Path) -> None:
    """The kernel would end the daemon too (OOMPolicy=stop)."""
    service = tmp_path / "system.slice" / "edge-inspect.service"
    service.mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("0::/system.slice/edge-inspect.service\n")
    assert room_in_group_bytes(tmp_path, own) == 1 << 62
    (service / "memory.max").write_text(f"{2 << 30}\n")
    (service / "memory.current").write_text(f"{512 << 20}\n")
    (service.parent / "memory.max").write_text("max\n")
    assert room_in_group_bytes(tmp_path, own) == (2 << 30) - (512 << 20) - (384 << 20)


def test_model_that_grows_to_gigabytes_at_load_is_refused(tmp_path: Path) -> None:
    """Not a stub: a few bytes that the runtime itself unfolds."""
    hungry = package(tmp_path / "candidate", packages.memory_at_load(16))
    with pytest.raises(BadModel) as refused:
        probe(hungry, model=on_cpu(), limits=ProbeLimits(120.0, 1 << 30))
    assert refused.value.code == "probe-memory"


def test_command_prints_one_object(candidate: Path, active: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(candidate), "--golden-of", str(active), "--provider", "cpu", "--latency-factor", "50", "--json"]
    assert run_command([*words, "--source", "192x320", "--seconds", "120"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["variants"] == ["model.onnx"]


def test_command_refuses_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = package(tmp_path / "candidate", packages.nan)
    assert run_command([str(broken), "--provider", "cpu", "--json", "--seconds", "120"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"ok": False, "code": "non-finite"}
    assert len(printed.err.strip().splitlines()) == 1
    for words, says in (
        (["--listen"], "systemd passed no socket"),
        ([], "PACKAGE is missing"),
        (["x", "--shape", "9"], "HEIGHT"),
    ):
        assert run_command(words) in (1, 64)
        assert says in capsys.readouterr().err or words[:1] == ["x"]


def test_service_answers_on_the_socket_that_systemd_passes(candidate: Path, tmp_path: Path) -> None:
    """As systemd does it: the socket listens first, the service gets it as descriptor 3."""
    where = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(where))
        listener.listen(1)
        start = "import os,sys; os.dup2(int(sys.argv[1]), 3); os.set_inheritable(3, True);"
        start += "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1');"
        start += "from edge_inspect.cli.probe import main; main(['--listen'])"
        command = [sys.executable, "-c", start, str(listener.fileno())]
        with subprocess.Popen(command, pass_fds=[listener.fileno()]) as service:
            probed = probe(candidate, model=on_cpu(), limits=PATIENT, service=where, command=("/bin/false",))
            assert service.wait(60) == 0
    assert probed.variants == ("model.onnx",)


def test_without_the_service_a_child_does_it(candidate: Path, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="exit code 1"):
        probe(candidate, model=on_cpu(), service=tmp_path / "nobody", command=("/bin/false",))
