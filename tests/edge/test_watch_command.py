"""`watch` prints each defect once for people and machines; `outbox status` looks without disturbing."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from edge_inspect.cli import run_command
from edge_inspect.cli.watch import human_line
from edge_inspect.delivery.outbox import Outbox
from edge_wire.messages import DefectReport
from edge_wire.topics import Topics
from tests.edge.delivery.couriers import until
from tests.edge.delivery.reports import DEVICE, TOPICS, report
from tests.mosquitto import Mosquitto, free_port
from tests.wire.samples import defect_full, defect_unseen

EPOCH = "019a2f3b4c5d-0123456789abcdef"


def numbered(number: int) -> DefectReport:
    return report(number).numbered(EPOCH, number)


def publish(broker: Mosquitto, payload: bytes, topics: Topics = TOPICS) -> None:
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(broker.port), "-q", "1", "-t", topics.defect, "-s"]
    subprocess.run(command, input=payload, check=True, timeout=20)


class Watching:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []
        self._thread = threading.Thread(target=self._read, name="watch-stderr")
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)

    def ready(self, times: int = 1) -> None:
        until(lambda: sum("listening to" in line for line in self.said) >= times)

    def end(self) -> tuple[int, list[str]]:
        assert self.process.stdout is not None
        lines = self.process.stdout.read().splitlines()
        self.process.wait(timeout=30)
        self._thread.join(timeout=10)
        return self.process.returncode, lines


@contextmanager
def watching(url: str, *options: str) -> Iterator[Watching]:
    command = [sys.executable, "-m", "edge_inspect", "watch", "--mqtt", url, "--timeout", "60", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        watch = Watching(process)
        try:
            yield watch
        finally:
            process.kill()
            watch.end()


def test_machines_get_each_report_once_as_it_was_sent(mosquitto: Mosquitto) -> None:
    with watching(mosquitto.url, "--json", "--count", "3") as watch:
        watch.ready()
        for number in (1, 2, 2, 1, 3):
            publish(mosquitto, numbered(number).to_bytes())
        code, lines = watch.end()
    assert code == 0
    assert [line.encode() for line in lines] == [numbered(number).to_bytes() for number in (1, 2, 3)]


def test_people_get_a_line_a_defect(mosquitto: Mosquitto) -> None:
    with watching(mosquitto.url, "--count", "1") as watch:
        watch.ready()
        publish(mosquitto, defect_full().to_bytes(), Topics("plant-1", "press-4", "edge-0017"))
        code, lines = watch.end()
    assert code == 0
    (line,) = lines
    for word in ("edge-0017/left", "part 5120", "NG", "scratch 87%", "at 412,101", "56x22 px (4.5x1.7 mm)", "defect"):
        assert word in line
    assert "camera-lost" in human_line(defect_unseen()).plain


def test_a_class_name_cannot_command_the_terminal() -> None:
    evil = defect_full().defects[0].model_copy(update={"class_name": "a\x9b2Jb\x7f[red]"})
    line = human_line(defect_full().model_copy(update={"defects": (evil,)})).plain
    assert "a?2Jb?[red]" in line and line.isprintable()


def test_filters_choose_by_site_line_and_device(mosquitto: Mosquitto) -> None:
    with watching(mosquitto.url, "--json", "--line", "press-4", "--device", "edge-2", "--count", "1") as watch:
        watch.ready()
        publish(mosquitto, numbered(1).to_bytes())
        publish(mosquitto, numbered(2).to_bytes(), Topics("plant", "press-5", "edge-2"))
        publish(mosquitto, numbered(3).to_bytes(), Topics("other", "press-4", "edge-2"))
        code, lines = watch.end()
    assert code == 0 and [json.loads(line)["seq"] for line in lines] == [3]


def test_what_is_no_report_is_said_and_skipped(mosquitto: Mosquitto) -> None:
    with watching(mosquitto.url, "--json", "--count", "1") as watch:
        watch.ready()
        publish(mosquitto, b'{"hello": 1}')
        publish(mosquitto, numbered(1).to_bytes())
        code, lines = watch.end()
    assert code == 0 and len(lines) == 1
    assert sum("unreadable: inspect.defect/1:" in line for line in watch.said) == 1


def test_watching_goes_on_after_the_broker_was_killed(mosquitto: Mosquitto) -> None:
    with watching(mosquitto.url, "--json", "--count", "2") as watch:
        watch.ready()
        publish(mosquitto, numbered(1).to_bytes())
        mosquitto.restart(kill=True)
        publish(mosquitto, numbered(2).to_bytes())
        code, lines = watch.end()
    assert code == 0 and [json.loads(line)["seq"] for line in lines] == [1, 2]


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_both_protocol_versions_are_heard(mosquitto: Mosquitto, protocol: str) -> None:
    with watching(mosquitto.url, "--json", "--count", "1", "--protocol", protocol) as watch:
        watch.ready()
        publish(mosquitto, numbered(1).to_bytes())
        assert watch.end()[0] == 0


def test_time_is_up_with_too_few_reports_is_a_failure(mosquitto: Mosquitto, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["watch", "--mqtt", mosquitto.url, "--count", "2", "--timeout", "0.5"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "edge-inspect: 0 of 2 reports within 0.5 s"
    assert run_command(["watch", "--mqtt", mosquitto.url, "--timeout", "0.2"]) == 0


def test_no_broker_is_said_once_and_tried_until_the_time_is_up(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"
    assert run_command(["watch", "--mqtt", url, "--count", "1", "--timeout", "1.5"]) == 1
    said = capsys.readouterr().err
    assert said.count("nobody listens there [refused]") == 1


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--mqtt", "http://x"], 64, "allowed: mqtt://HOST"),
        (["--mqtt", "mqtt://x", "--site", "+"], 64, "site '+' is not a name"),
        (["--mqtt", "mqtt://x", "--protocol", "4"], 64, "allowed: 5, 3.1.1"),
        (["--mqtt", "mqtt://x", "--ca", "/ca.pem"], 64, "plain text"),
        (["--mqtt", "mqtt://x", "--count", "0"], 64, "--count"),
        ([], 64, "--mqtt"),
    ],
)
def test_wrong_options_are_one_line_and_their_exit_code(
    capsys: pytest.CaptureFixture[str], options: list[str], code: int, words: str
) -> None:
    assert run_command(["watch", *options]) == code
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_outbox_status_is_read_while_the_daemon_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(Outbox(tmp_path / "outbox.sqlite3", device=DEVICE)) as box:
        box.put_many([report(number) for number in range(1, 6)])
        box.ack_rows([row.number for row in box.window(2)])
        (tmp_path / "outbox.sqlite3.broken-20261122T090000-ab12").touch()
        assert run_command(["outbox", "status", "--state", str(tmp_path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert run_command(["outbox", "status", "--state", str(tmp_path)]) == 0
        assert "3 reports wait (3 not sent, 0 sent), 2 delivered" in capsys.readouterr().out
        assert box.put(report(6)).seq == 6
    assert (found["depth"], found["acked"], found["last_seq"]) == (3, 2, 5)
    assert found["set_aside"] == ["outbox.sqlite3.broken-20261122T090000-ab12"]
    assert run_command(["outbox", "status", "--state", str(tmp_path)]) == 0


def test_outbox_status_without_an_outbox_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["outbox", "status", "--state", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"edge-inspect: {tmp_path / 'outbox.sqlite3'}: there is no outbox\n"


@pytest.mark.parametrize("content", [b"", b"not a database" * 100])
def test_outbox_status_of_a_broken_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "outbox.sqlite3").write_bytes(content)
    assert run_command(["outbox", "status", "--state", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
