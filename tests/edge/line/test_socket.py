"""The line's Unix socket, spoken to as another program would: real sockets, real threads."""

from __future__ import annotations

import json
import os
import resource
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_inspect.errors import BadConfig, Refusal
from edge_inspect.line.protocol import MOST_SEQUENCE, Answer, Trigger
from edge_inspect.line.socket import MOST_CLIENTS, MOST_LINE_BYTES, MOST_OPEN_TRIGGERS, SocketLine
from tests.edge.line.served import FAR_NS, WAIT_S, Served, answer, connects


class Program:
    """Another program at the other end."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(WAIT_S)
        self.socket.connect(str(path))
        self._lines = self.socket.makefile("rb")

    def send(self, line: bytes | dict[str, object]) -> None:
        self.socket.sendall((json.dumps(line).encode() if isinstance(line, dict) else line) + b"\n")

    def hear(self) -> dict[str, object]:
        line = self._lines.readline()
        assert line, "the connection was closed"
        heard: dict[str, object] = json.loads(line)
        return heard

    def ask(self, line: bytes | dict[str, object]) -> dict[str, object]:
        self.send(line)
        return self.hear()

    def is_closed(self) -> bool:
        try:
            return self._lines.readline() == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._lines.close()
        self.socket.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "line.sock"


@pytest.fixture
def serve(path: Path) -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def start(**options: bool) -> Served:
        made.append(Served(path, **options))
        return made[-1]

    yield start
    for served in made:
        served.end()


@pytest.fixture
def connect(path: Path) -> Iterator[Callable[[], Program]]:
    made: list[Program] = []

    def start() -> Program:
        made.append(Program(path))
        return made[-1]

    yield start
    for program in made:
        program.close()


Serve = Callable[..., Served]
Connect = Callable[[], Program]


def test_trigger_gets_its_answer_with_its_own_number(serve: Serve, connect: Connect) -> None:
    served = serve()
    program = connect()
    before_ns = time.monotonic_ns()
    heard = program.ask({"trigger": 7, "encoder": 1200})
    assert heard == {"seq": 7, "verdict": "OK", "reason": "no-defect", "part": 3, "latency_ms": 8.4}
    (trigger,) = served.triggers
    assert (trigger.sequence, trigger.encoder, trigger.source) == (7, 1200, "socket")
    assert before_ns <= trigger.at_ns <= time.monotonic_ns()


def test_each_of_several_clients_hears_only_its_own_answers(serve: Serve, connect: Connect) -> None:
    serve()
    programs = [connect() for _ in range(8)]
    for sequence in range(400):
        programs[sequence % 8].send({"trigger": sequence})
    for number, program in enumerate(programs):
        assert [program.hear()["seq"] for _ in range(50)] == list(range(number, 400, 8))


def test_listener_hears_answers_to_triggers_from_elsewhere(serve: Serve, connect: Connect) -> None:
    served = serve(takes_triggers=False)
    program, other = connect(), connect()
    assert program.ask({"listen": True}) == {"listen": True}
    assert other.ask({"status": True}) == {"ready": False, "busy": False}
    served.line.status(True, False)
    served.line.tell(answer(Trigger(9, time.monotonic_ns(), "gpio"), "NG", "defect"))
    assert program.hear()["seq"] == 9
    assert other.ask({"status": True}) == {"ready": True, "busy": False}, "not the answer: it never asked to listen"


def test_trigger_is_refused_where_triggers_come_from_elsewhere(serve: Serve, connect: Connect) -> None:
    serve(takes_triggers=False)
    assert connect().ask({"trigger": 1}) == {"error": "this line takes its triggers elsewhere"}


@pytest.mark.parametrize(
    "line",
    [
        b"hello", b"{", b"[]", b"7", b"null", b"{}", b'{"trigger": -1}', b'{"trigger": 4294967296}',
        b'{"trigger": true}', b'{"trigger": 1.0}', b'{"trigger": "1"}', b'{"trigger": null}', b'{"trigger": NaN}',
        b'{"trigger": 1, "encoder": 1.5}', b'{"trigger": 1, "encoder": 9223372036854775808}', b'{"trigger": 1, "x": 2}',
        b'{"listen": 1}', b'{"status": "now"}', b"\xff\xfe\x00", b"\x00" * 10, b"[" * 1000, b'{"trigger": 1} x',
        b'{"trigger": ' + b"9" * 900 + b"}", b"a" * (MOST_LINE_BYTES + 1), b"b" * 1_000_000,
    ],
    ids=lambda line: line[:24].decode("latin-1"),
)  # fmt: skip
def test_garbage_gets_one_error_line_and_the_connection_goes_on(line: bytes, serve: Serve, connect: Connect) -> None:
    served = serve()
    program = connect()
    heard = program.ask(line)
    assert list(heard) == ["error"] and "allowed" in str(heard["error"])
    assert program.ask({"trigger": MOST_SEQUENCE})["seq"] == MOST_SEQUENCE
    assert served.line.refused == 1 and len(served.triggers) == 1


def test_lines_may_come_in_pieces_and_many_at_once(serve: Serve, connect: Connect) -> None:
    serve()
    program = connect()
    for byte in b'{"trigger": 5}\n\n  \n':
        program.socket.sendall(bytes([byte]))
    assert program.hear()["seq"] == 5
    program.socket.sendall(b"".join(b'{"trigger": %d}\r\n' % n for n in range(1000)))
    assert [program.hear()["seq"] for _ in range(1000)] == list(range(1000))


def test_client_that_has_finished_sending_still_gets_its_answer(serve: Serve, connect: Connect) -> None:
    served = serve(answers=False)
    program = connect()
    program.socket.sendall(b'{"trigger": 5}')  # not even the line's end
    program.socket.shutdown(socket.SHUT_WR)
    served.wait_for_triggers(1)
    served.line.tell(answer(served.triggers[0]))
    assert program.hear()["seq"] == 5
    assert program.is_closed()


def test_client_that_does_not_read_is_cut_off_and_delays_nobody(serve: Serve, connect: Connect) -> None:
    served = serve()
    deaf, other = connect(), connect()
    assert deaf.ask({"listen": True}) == {"listen": True}
    sequence = 0
    until = time.monotonic() + WAIT_S
    while not served.line.cut_off:
        assert time.monotonic() < until
        for _ in range(500):
            served.line.tell(answer(Trigger(sequence, time.monotonic_ns(), "gpio")))
        assert other.ask({"trigger": sequence})["seq"] == sequence
        sequence += 1
    assert other.ask({"trigger": sequence})["seq"] == sequence


def test_triggers_without_answers_are_bounded(serve: Serve, connect: Connect) -> None:
    served = serve(answers=False)
    program = connect()
    for sequence in range(MOST_OPEN_TRIGGERS):
        program.send({"trigger": sequence})
    assert "not answered yet" in str(program.ask({"trigger": MOST_OPEN_TRIGGERS})["error"])
    assert len(served.triggers) == MOST_OPEN_TRIGGERS
    served.line.tell(answer(served.triggers[0]))
    assert program.hear()["seq"] == 0
    program.send({"trigger": 77_777})
    served.wait_for_triggers(MOST_OPEN_TRIGGERS + 1)


def test_client_that_dies_takes_nothing_with_it(serve: Serve, connect: Connect) -> None:
    served = serve(answers=False)
    program, other = connect(), connect()
    program.send({"trigger": 1})
    served.wait_for_triggers(1)
    program.close()
    served.line.tell(answer(served.triggers[0]))
    other.send({"trigger": 2})
    served.wait_for_triggers(2)
    served.line.tell(answer(served.triggers[1]))
    assert other.hear()["seq"] == 2


def test_more_clients_than_allowed_wait_their_turn(serve: Serve, connect: Connect) -> None:
    serve()
    programs = [connect() for _ in range(MOST_CLIENTS)]
    for program in programs:
        assert program.ask({"trigger": 1})["seq"] == 1
    late = connect()
    late.send({"trigger": 2})
    programs[0].close()
    assert late.hear()["seq"] == 2


def test_client_for_whom_no_file_descriptor_is_left_waits_and_delays_nobody(
    serve: Serve, connect: Connect, path: Path
) -> None:
    serve()
    first = connect()
    assert first.ask({"status": True})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as second:
        second.settimeout(WAIT_S)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            second.connect(str(path))
            assert first.ask({"status": True})
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        second.sendall(b'{"status": true}\n')
        assert json.loads(second.recv(4096)) == {"ready": False, "busy": False}


def test_file_is_for_owner_and_group_and_goes_at_the_end(serve: Serve, path: Path, connect: Connect) -> None:
    served = serve()
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    program = connect()
    program.ask({"trigger": 1})
    served.end()
    assert program.is_closed()
    assert not path.exists()
    assert served.line.beat_ns is None and served.error is None


def test_file_of_a_killed_daemon_is_replaced(serve: Serve, connect: Connect, path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    assert path.exists()
    serve()
    assert connect().ask({"trigger": 1})["seq"] == 1


def test_second_daemon_is_refused_and_the_first_goes_on(serve: Serve, connect: Connect, path: Path) -> None:
    serve()
    with pytest.raises(Refusal, match="another daemon serves it"):
        SocketLine(path).run(threading.Event())
    assert connect().ask({"trigger": 1})["seq"] == 1


def test_socket_of_another_program_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(path))
        other.listen(1)
        with pytest.raises(Refusal, match="another daemon serves it"):
            SocketLine(path).run(threading.Event())
        assert path.exists()


def test_path_that_cannot_be_a_socket_is_one_clear_line(path: Path, tmp_path: Path) -> None:
    path.write_text("precious")
    long = tmp_path / ("x" * 120)
    for wrong, words in ((path, "no socket"), (tmp_path / "no" / "line", "No such file"), (long, "too long")):
        with pytest.raises(BadConfig, match=words):
            SocketLine(wrong).run(threading.Event())
    assert path.read_text() == "precious"


def test_no_file_descriptor_is_left_behind(serve: Serve, connect: Connect) -> None:
    before = len(os.listdir("/proc/self/fd"))
    served = serve()
    for number in range(20):
        program = connect()
        assert program.ask({"trigger": number})["seq"] == number
        program.close()
    served.end()
    assert len(os.listdir("/proc/self/fd")) == before


def test_daemon_killed_while_serving_leaves_closed_connections_and_a_path_to_reuse(path: Path, serve: Serve) -> None:
    code = (
        "import sys, threading; from pathlib import Path; from edge_inspect.line.socket import SocketLine\n"
        "SocketLine(Path(sys.argv[1])).run(threading.Event(), lambda trigger: None)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + WAIT_S
        while not path.exists() or not connects(path):
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.02)
        program = Program(path)
        program.send({"trigger": 1})
        process.kill()
        process.wait()
    assert program.is_closed(), "no connection is no OK"
    program.close()
    serve()
    program = Program(path)
    assert program.ask({"trigger": 2})["seq"] == 2
    program.close()


def test_an_ok_whose_time_is_over_is_not_handed_out(serve: Serve, connect: Connect) -> None:
    """However long this thread stood still between the verdict and the wire."""
    served = serve()
    program = connect()
    program.send({"listen": True})
    assert program.hear() == {"listen": True}
    for number, deadline_in_ns in ((1, -1), (2, FAR_NS)):
        now_ns = time.monotonic_ns()
        trigger = Trigger(number, now_ns, "socket")
        served.line.tell(Answer(number, "OK", "no-defect", number, trigger, now_ns, now_ns + deadline_in_ns))
    heard = [program.hear() for _ in range(2)]
    assert [(said["verdict"], said["reason"]) for said in heard] == [("UNKNOWN", "deadline"), ("OK", "no-defect")]
    assert served.line.late == 1
