"""A candidate that crashes, hangs or eats memory while it is loaded takes only the probe's process with it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from structlog.testing import capture_logs

from edge_inspect.cli import probe as probe_command
from edge_inspect.cli.probe import run_command
from edge_inspect.errors import BadModel, Ending, StorageFailing
from edge_inspect.update import probe as probe_module
from edge_inspect.update.examine import Probed, Request
from edge_inspect.update.probe import ProbeLimits, probe, room_in_group_bytes, serve, service_of
from edge_inspect.update.probe_answer import Refused, answer_of
from edge_inspect.update.probe_family import descendants
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
        (0, b'{"ok": false, "code": "x", "message": 1}', "", "probe-crash", "is no answer"),
        (-99, b"", "", "probe-crash", "signal 99"),
        (-11, b'{"ok": true}\n', "", "probe-crash", "SIGSEGV"),
        (1, b"", "Traceback\nKeyError: 'no such key'\n", "probe-crash", "KeyError"),
        (-6, b"", "terminate called after throwing an instance of 'std::bad_alloc'\n", "probe-memory", "bad_alloc"),
        (-24, b"", "", "probe-hang", "CPU time"),
    ],
)
def test_no_answer_is_an_answer(returncode: int, said: bytes, complained: str, code: str, says: str) -> None:
    answer = answer_of(returncode, said, complained)
    assert isinstance(answer, Refused)
    assert (answer.code, says in answer.message) == (code, True)


PASSED = {
    "ok": True, "provider": "cpu", "variants": ["model.onnx"], "latency_p50_ms": 1.0, "latency_p99_ms": 2.0,
    "active_p50_ms": 1.0, "active_p99_ms": 2.0, "memory_bytes": 1, "active_memory_bytes": 1, "network": "",
    "remark": "",
}  # fmt: skip
CHILD_SAYS = (sys.executable, "-I", "-c", "import sys; print(sys.argv[1])", json.dumps(PASSED))
"""A child that is through with it at once."""


@pytest.mark.parametrize(
    "answer",
    [
        {"ok": True},
        PASSED | {"more": 1},
        {"ok": False},
        {"ok": False, "code": "No Code\n", "message": "x"},
    ],
    ids=["nothing-in-it", "a-key-more", "no-code", "a-code-that-is-none"],
)
def test_an_answer_that_is_none_is_a_crash_of_the_probe_only(candidate: Path, answer: dict[str, Any]) -> None:
    refused = faulty(candidate, "say", json.dumps(answer))
    assert refused.code == "probe-crash" and "no answer" in str(refused)


def test_what_it_says_in_order_is_believed(candidate: Path) -> None:
    command = (sys.executable, "-I", str(FAULTY), "say", json.dumps(PASSED))
    assert probe(candidate, model=on_cpu(), limits=PATIENT, command=command).variants == ("model.onnx",)


ON_A_BAD_DISK = """
import errno, os
opened = os.open
def failing(path, *how, **more):
    if str(path).endswith(".onnx"):
        raise OSError(errno.EIO, "Input/output error")
    return opened(path, *how, **more)
os.open = failing
from edge_inspect.update.probe_child import main
main()
"""


def test_a_disk_that_does_not_give_the_bytes_is_no_word_about_the_model(candidate: Path) -> None:
    command = (sys.executable, "-I", "-c", ON_A_BAD_DISK)
    with pytest.raises(StorageFailing, match="onnx: cannot be read: Input/output error"):
        probe(candidate, model=on_cpu(), limits=PATIENT, command=command)


def test_hang_ends_at_the_deadline(candidate: Path) -> None:
    started = time.monotonic()
    assert faulty(candidate, "hang", limits=ProbeLimits(seconds=3.0)).code == "probe-hang"
    assert time.monotonic() - started < 60


def running(word: Path) -> list[int]:
    """Whose command line has this word, and has not ended."""
    found = psutil.process_iter(["cmdline", "status"])
    mine = [p for p in found if str(word) in (p.info["cmdline"] or []) and p.pid != os.getpid()]
    return [p.pid for p in mine if p.info["status"] != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("fault", ["grandchild", "left-alone"])
def test_nothing_of_it_is_left_running(candidate: Path, tmp_path: Path, fault: str) -> None:
    assert faulty(candidate, fault, str(tmp_path)).code == "probe-crash"
    until(lambda: running(tmp_path) == [], "all of it has ended")  # it was killed; on a busy machine it dies later


def until(true: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until_s, f"never: {what}"
        time.sleep(0.02)


def test_family_of_one_that_ends_just_then_is_found(tmp_path: Path) -> None:
    """Read when it still named its parent, which was a zombie a moment later."""
    for pid, state, parent in ((10, "S", 1), (11, "Z", 10), (12, "R", 11), (13, "S", 12), (20, "S", 1)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a (name) R 1) {state} {parent} 0 0\n")
    assert sorted(descendants(10, tmp_path)) == [12, 13]


def test_it_ends_with_the_daemon_at_once(candidate: Path, tmp_path: Path) -> None:
    begun, stop, ended = tmp_path / "begun", threading.Event(), []
    command = (sys.executable, "-I", str(FAULTY), "hang-with-family", str(begun))

    def ask() -> None:
        try:
            probe(candidate, model=on_cpu(), limits=PATIENT, command=command, stop=stop)
        except Ending as err:
            ended.append(err)

    thread = threading.Thread(target=ask)
    thread.start()
    until(begun.exists, "begun")
    stop.set()
    thread.join(timeout=60)
    assert len(ended) == 1 and running(begun) == []


def test_it_ends_when_the_daemon_is_killed(candidate: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    start = "import sys; from pathlib import Path; from edge_inspect.update.probe import probe;"
    start += "probe(Path(sys.argv[1]), command=sys.argv[2:])"
    command = [str(candidate), sys.executable, "-I", str(FAULTY), "hang-with-family", str(begun)]
    with subprocess.Popen([sys.executable, "-c", start, *command]) as daemon:
        until(begun.exists, "begun")
        daemon.kill()
    until(lambda: running(begun) == [], "all of it has ended")


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


def test_resident_memory_is_watched_from_outside_too(candidate: Path) -> None:
    """Where addresses cannot be limited, as with a GPU's driver."""
    limits = ProbeLimits(seconds=120.0, memory_bytes=400 << 20, addresses_bytes=8 << 30)
    for fault in ("resident-hog", "hog-elsewhere"):
        refused = faulty(candidate, fault, limits=limits)
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


def test_refusal_over_several_lines_is_told_in_one(
    candidate: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BadModel("probe-crash", "the runtime said:\n  something\n  long")

    monkeypatch.setattr(probe_command, "probe", refuse)
    assert run_command([str(candidate)]) == 1
    assert capsys.readouterr().err == "edge-inspect-probe: the runtime said: something long [probe-crash]\n"


def test_command_refuses_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = package(tmp_path / "candidate", packages.nan)
    assert run_command([str(broken), "--provider", "cpu", "--json", "--seconds", "120"]) == 1
    printed = capsys.readouterr()
    said = json.loads(printed.out)
    assert (said["ok"], said["exit_code"], said["code"]) == (False, 1, "non-finite")
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


def test_a_service_that_cannot_be_asked_is_told(
    candidate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no socket: a child does it, without a word. There is one, and it does not serve us: that is told."""
    left = tmp_path / "left"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(left))
    with capture_logs() as told:
        assert probe(candidate, model=on_cpu(), service=tmp_path / "nobody", command=CHILD_SAYS).remark == ""
        assert not told
        assert "nobody who listens" in probe(candidate, model=on_cpu(), service=left, command=CHILD_SAYS).remark
    assert [line["event"] for line in told] == ["probe.service_not_used"]

    def forbidden(self: socket.socket, address: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("edge_inspect.update.probe.socket.socket.connect", forbidden)
    with capture_logs() as told:
        probed = probe(candidate, model=on_cpu(), limits=PATIENT, service=left, command=CHILD_SAYS)
    assert [line["event"] for line in told] == ["probe.service_not_used"] and told[0]["log_level"] == "warning"
    assert f"{left} cannot be asked" in probed.remark and "Permission denied" in probed.remark


def test_the_service_ends_its_child_when_nobody_waits_any_more(candidate: Path, tmp_path: Path) -> None:
    where, begun, stop = tmp_path / "socket", tmp_path / "begun", threading.Event()
    command = (sys.executable, "-I", str(FAULTY), "hang-with-family", str(begun))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(where))
        listener.listen(1)
        thread = threading.Thread(target=serve, args=(listener, command))
        thread.start()

        def stop_it() -> None:
            until(begun.exists, "begun")
            stop.set()

        until_begun = threading.Thread(target=stop_it)
        until_begun.start()
        with pytest.raises(Ending):
            probe(candidate, model=on_cpu(), limits=PATIENT, service=where, command=("/bin/false",), stop=stop)
        until_begun.join()
        thread.join(timeout=60)
        assert not thread.is_alive() and running(begun) == []


@contextlib.contextmanager
def listening(where: Path, serves: Callable[[socket.socket], None]) -> Iterator[None]:
    """As systemd: one request is served, in a thread here."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(where))
        listener.listen(1)
        thread = threading.Thread(target=serves, args=(listener,))
        thread.start()
        yield
        thread.join(timeout=60)
        assert not thread.is_alive()


@pytest.mark.parametrize("hidden", ["candidate", "active"])
def test_what_the_service_does_not_see_is_no_word_about_the_model(
    hidden: str, candidate: Path, active: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance's models, another models_dir, a model that judges from /srv; without the latter nothing compares."""
    unseen = {"candidate": candidate, "active": active}[hidden]
    really = os.access
    monkeypatch.setattr(os, "access", lambda path, how: unseen not in Path(path).parents and really(path, how))
    where = tmp_path / "socket"
    with listening(where, lambda listener: serve(listener, ("/bin/false",))), capture_logs() as told:
        probed = probe(candidate, model=on_cpu(), golden_of=active, limits=PATIENT, service=where, command=CHILD_SAYS)
    assert f"does not see {unseen} (" in probed.remark and "a child of this process examined it" in probed.remark
    assert [(line["event"], line["log_level"]) for line in told] == [("probe.service_not_used", "warning")]


def test_what_nobody_sees_is_refused(tmp_path: Path) -> None:
    where = tmp_path / "socket"
    with listening(where, serve), pytest.raises(BadModel) as refused:
        probe(tmp_path / "gone", model=on_cpu(), limits=PATIENT, service=where)
    assert refused.value.code == "package-missing"


@pytest.mark.parametrize("said", [b"", b'{"ok": true}\n', b'{"unseen": 1}\n'], ids=["nothing", "half", "wrong"])
def test_a_service_that_fails_is_no_word_about_the_model(said: bytes, candidate: Path, tmp_path: Path) -> None:
    def fail(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(said)

    where = tmp_path / "socket"
    with listening(where, fail), capture_logs() as told:
        probed = probe(candidate, model=on_cpu(), limits=PATIENT, service=where, command=CHILD_SAYS)
    assert probed.variants == ("model.onnx",) and "answer" in probed.remark
    assert [line["event"] for line in told] == ["probe.service_not_used"]


def test_a_service_that_is_silent_is_no_word_about_the_model() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(probe_module._NoWord, match="no answer within"):
        probe_module._reply(ours, {}, 0.2, lambda: False)


def test_a_crash_of_the_services_child_is_a_refusal(candidate: Path, tmp_path: Path) -> None:
    where, crashes = tmp_path / "socket", (sys.executable, "-I", str(FAULTY), "abort")
    with listening(where, lambda listener: serve(listener, crashes)), pytest.raises(BadModel) as refused:
        probe(candidate, model=on_cpu(), limits=PATIENT, service=where, command=CHILD_SAYS)
    assert refused.value.code == "probe-crash" and "SIGABRT" in str(refused.value)


def test_the_service_is_not_asked_for_a_gpu(candidate: Path, tmp_path: Path) -> None:
    """It has no devices."""
    where = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(where))
        listener.listen(1)
        listener.setblocking(False)
        assert probe(candidate, model=on_cpu(provider="cuda"), service=where, command=CHILD_SAYS).remark == ""
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_service_takes_a_request_that_nobody_waits_for(tmp_path: Path) -> None:
    """Left in the queue by a daemon that has ended: else each would be a failed start."""
    with listening(tmp_path / "socket", serve), socket.socket(socket.AF_UNIX) as asks:
        asks.connect(str(tmp_path / "socket"))


@pytest.mark.parametrize(
    ("state_dir", "socket_is"),
    [
        ("/var/lib/edge-inspect", "/run/edge-inspect-probe/socket"),
        ("/var/lib/edge-inspect/left", "/run/edge-inspect-probe@left/socket"),
        ("/data/edge", "/run/edge-inspect-probe/socket"),
    ],
)
def test_each_daemon_asks_the_service_that_sees_its_models(state_dir: str, socket_is: str) -> None:
    assert str(service_of(Path(state_dir))) == socket_is
