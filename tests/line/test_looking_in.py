"""The whole appliance runs, and somebody looks in: `status` over its socket, a scraper over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from edge_inspect.cli import run_command
from edge_inspect.cli.status import fetch
from edge_inspect.config import Config
from edge_inspect.config_metrics import MetricsConfig
from edge_inspect.daemon import Appliance
from edge_inspect.errors import CameraLost, Refusal
from edge_inspect.health import doors
from edge_inspect.health.doors import MOST_AT_ONCE, SOCKET_NAME
from tests.line.conftest import Build
from tests.line.drawn import DrawnCamera


class Endless(DrawnCamera):
    """Good pictures for ever, twenty a second."""

    def __init__(self) -> None:
        super().__init__(["good", "bad"], live=True)

    def read_into(self, pixels, stamp):  # type: ignore[no-untyped-def]
        time.sleep(0.05)
        self.steps += ["good"] * 5 + ["bad"]
        return super().read_into(pixels, stamp)


class NeverThere(DrawnCamera):
    def __init__(self) -> None:
        super().__init__([], live=True)

    def open(self):  # type: ignore[no-untyped-def]
        raise CameraLost("drawn: not there")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def running(appliance: Appliance) -> Iterator[Path]:
    """The state directory of an appliance that runs meanwhile."""
    stop = threading.Event()
    died: list[BaseException] = []

    def run() -> None:
        try:
            appliance.run(stop)
        except BaseException as err:  # noqa: BLE001 - told below
            died.append(err)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        until_there((appliance.config.state_dir / SOCKET_NAME).exists)
        yield appliance.config.state_dir
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    assert not died, died


def until_there(there: Callable[[], bool], within_s: float = 60) -> None:
    until = time.monotonic() + within_s
    while not there():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.02)


def with_metrics(appliance: Appliance, port: int) -> Appliance:
    config: Config = appliance.config.model_copy(update={"metrics": MetricsConfig(port=port)})
    appliance._doors = doors.doors(config, appliance.observe)
    return appliance


def get(port: int, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_status_tells_what_the_daemon_counts(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    appliance, _ = build({"left": Endless(), "gone": NeverThere()}, deliver=True)
    with running(appliance) as state:
        until_there(lambda: fetch(state)["cameras"][0]["ng"] > 0)
        until_there(lambda: fetch(state)["outbox"] is not None)
        until_there(lambda: fetch(state)["cameras"][0]["every_frame_jpeg_bytes_estimated"] is not None)
        assert run_command(["status", "--state", str(state), "--json"]) == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert run_command(["status", "--state", str(state)]) == 0
        page = capsys.readouterr().out
    left, gone = told["cameras"]
    assert (left["state"], left["parts"] > 0, left["frames"] > 0) == ("up", True, True)
    assert 0 < left["latency_ms"]["p50"] <= left["latency_ms"]["p99"] <= left["latency_ms"]["max"]
    assert left["frame_bytes"] > 0 and left["frame_bytes"] % (320 * 192 * 3) == 0
    assert 0 < left["every_frame_jpeg_bytes_estimated"] < left["frame_bytes"]
    assert gone["every_frame_jpeg_bytes_estimated"] is None and told["saved_bytes_estimated"] is None
    assert (gone["state"], gone["trouble"]) == ("lost", "camera-lost")
    assert set(told["threads"]) == {"grab-left", "grab-gone", "inspect", "outbox", "vitals", "status"}
    assert told["pid"] == os.getpid()
    for word in ("left", "camera-lost", "outbox", "no broker"):
        assert word in page


def test_socket_is_the_owners_alone_and_goes_with_the_daemon(build: Build) -> None:
    appliance, _ = build({"left": Endless()}, deliver=True)
    (appliance.config.state_dir / SOCKET_NAME).touch()  # what a killed daemon left
    with running(appliance) as state:
        until_there((state / SOCKET_NAME).is_socket)
        assert (state / SOCKET_NAME).stat().st_mode & 0o777 == 0o600
        assert fetch(state)["version"]
    assert not (state / SOCKET_NAME).exists()


def test_scraper_gets_what_prometheus_understands_while_a_camera_is_away(build: Build) -> None:
    port = free_port()
    appliance, _ = build({"left": Endless(), "gone": NeverThere()}, deliver=True)
    with running(with_metrics(appliance, port)):
        until_there(lambda: 'parts_total{camera="left",reason="defect",verdict="NG"} 0.0' not in get(port)[1])
        code, text = get(port)
        assert code == 200
        families = {family.name: family for family in parse(text)}
        up = {sample.labels["camera"]: sample.value for sample in families["edge_inspect_camera_up"].samples}
        assert up == {"left": 1.0, "gone": 0.0}
        assert any(sample.value > 0 for sample in families["edge_inspect_stage_seconds"].samples)
        assert get(port, "/")[0] == 404
        assert get(port, method="POST")[0] == 405
        assert get(port, method="HEAD") == (200, "")


def test_readers_that_hang_hold_up_neither_the_line_nor_other_readers(build: Build) -> None:
    port = free_port()
    appliance, _ = build({"left": Endless()}, deliver=True)
    with running(with_metrics(appliance, port)) as state:
        until_there(lambda: get(port)[0] == 200)
        hanging = [socket.create_connection(("127.0.0.1", port)) for _ in range(MOST_AT_ONCE + 5)]
        try:
            parts = fetched_within(state)["cameras"][0]["parts"]
            until_there(lambda: fetched_within(state)["cameras"][0]["parts"] > parts + 5)
            for end in hanging:  # the silent are hung up on
                end.settimeout(60)
                assert end.recv(1) == b""
        finally:
            for end in hanging:
                end.close()
        assert get(port)[0] == 200


def fetched_within(state: Path, within_s: float = 60) -> dict:  # type: ignore[type-arg]
    """As `fetch`, again while all places are taken by others."""
    until = time.monotonic() + within_s
    while True:
        try:
            return fetch(state)
        except Refusal:
            assert time.monotonic() < until
            time.sleep(0.1)


def test_port_that_is_taken_is_an_alarm_and_parts_are_judged(build: Build) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        appliance, notes = build({"left": DrawnCamera(["good"] * 5)}, deliver=True)
        with_metrics(appliance, other.getsockname()[1]).run(threading.Event())
    assert len(notes.told) == 5
    assert [alarm.code for alarm in appliance.observe().alarms] == ["no-metrics-port"]


def test_a_state_directory_where_no_socket_can_be_made_stops_nothing(build: Build) -> None:
    appliance, notes = build({"left": DrawnCamera(["good"] * 5)}, deliver=True)
    (appliance.config.state_dir / f"{SOCKET_NAME}.new").mkdir()
    appliance.run(threading.Event())
    assert len(notes.told) == 5


def stale(state: Path) -> None:
    state.mkdir()
    with doors.short_name(state) as folder, socket.socket(socket.AF_UNIX) as end:
        end.bind(str(folder / SOCKET_NAME))


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda state: None, "no daemon runs with this state directory"),
        (lambda state: state.mkdir(), "no daemon runs with this state directory"),
        (stale, "the daemon that made this socket is gone"),
    ],
)
def test_without_a_daemon_one_line_says_so_and_the_exit_code_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], prepare: Callable[[Path], None], says: str
) -> None:
    state = tmp_path / "state"
    prepare(state)
    assert run_command(["status", "--state", str(state)]) == 1
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


def test_who_may_not_look_is_told_whom_to_ask_as(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object, flags: int) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doors.os, "open", refuse)
    with pytest.raises(Refusal, match="not permitted; ask as the daemon's user"):
        fetch(tmp_path)


def test_daemon_that_does_not_answer_is_given_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_inspect.cli.status.ANSWER_WITHIN_S", 0.2)
    with socket.socket(socket.AF_UNIX) as silent:
        with doors.short_name(tmp_path) as folder:
            silent.bind(str(folder / SOCKET_NAME))
        silent.listen()
        with pytest.raises(Refusal, match=r"does not answer within 0\.2 s"):
            fetch(tmp_path)
