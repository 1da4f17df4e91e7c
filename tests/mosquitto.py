"""A real mosquitto for tests: own port and folder, killed and restarted at will; read with its own tools."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

START_S = 20.0
BINARY = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")

KEEPS_EVERYTHING = (
    "persistence true",
    "autosave_on_changes true",
    "autosave_interval 1",
    "max_queued_messages 0",
)
"""As near as mosquitto 2.0 comes to not losing what it acknowledged when it is killed."""
DEFAULTS = ("persistence true",)
"""What Debian ships: a broker that is killed forgets up to half an hour, a slow subscriber gets 1000 messages."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """Started by `start`, ended by `stop` (SIGTERM) or `kill` (SIGKILL); `restart` keeps port and folder."""

    def __init__(self, folder: Path, *lines: str, scheme: str = "mqtt", anonymous: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.log_path = folder / "mosquitto.log"
        self._settings = folder / "mosquitto.conf"
        self._process: subprocess.Popen[bytes] | None = None
        text = [
            *(("user root",) if os.geteuid() == 0 else ()),
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {str(anonymous).lower()}",
            f"persistence_location {folder}/",
            "log_type all",
            *lines,
        ]
        self._settings.write_text("\n".join(text) + "\n")

    def start(self) -> Mosquitto:
        assert BINARY is not None and self._process is None
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [BINARY, "-c", str(self._settings)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise AssertionError(f"mosquitto ended at once: {self.log()}")
            with socket.socket() as probe:
                probe.settimeout(1.0)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.02)
        raise AssertionError(f"mosquitto did not listen within {START_S} s: {self.log()}")

    def kill(self) -> None:
        """As a crash: nothing is saved, no goodbye."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As an orderly shutdown: state is saved."""
        self._end(signal.SIGTERM)

    def restart(self, *, kill: bool = False) -> None:
        if kill:
            self.kill()
        else:
            self.stop()
        self.start()

    def freeze(self) -> None:
        """It keeps its sockets but answers nothing, until `thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for_log(self, text: str, timeout_s: float = 20.0) -> None:
        until = time.monotonic() + timeout_s
        while text not in self.log():
            assert time.monotonic() < until, f"{text!r} did not appear in mosquitto's log: {self.log()[-2000:]}"
            time.sleep(0.02)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(how)
        self._process.wait(timeout=START_S)
        self._process = None


class Listener:
    """What another program hears: `mosquitto_sub` with a kept session, restarted whenever the broker drops it.

    Messages are dicts with `topic`, `payload` (text), `qos`, `retain`, in the order of their arrival.
    """

    def __init__(self, broker: Mosquitto, topic: str) -> None:
        name = f"listener-{os.urandom(4).hex()}"
        where = ["-h", "127.0.0.1", "-p", str(broker.port)]
        session = ["-i", name, "-c", "-V", "mqttv5", "-x", "3600"]
        self._command = ["mosquitto_sub", *where, *session, "-t", topic, "-q", "1", "-F", "%j"]
        self._heard: list[dict[str, object]] = []
        self._changed = threading.Condition()
        self._done = False
        self._process = self._start()
        # Only what is published after the subscription stands would be promised to us.
        broker.wait_for_log(f"Sending SUBACK to {name}")
        self._thread = threading.Thread(target=self._read, name="listener")
        self._thread.start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def _read(self) -> None:
        while True:
            assert self._process.stdout is not None
            for line in self._process.stdout:
                with self._changed:
                    self._heard.append(json.loads(line))
                    self._changed.notify_all()
            self._process.wait()
            self._process.stdout.close()
            with self._changed:
                if self._done or self._changed.wait_for(lambda: self._done, timeout=0.1):
                    return
                self._process = self._start()

    @property
    def heard(self) -> list[dict[str, object]]:
        with self._changed:
            return list(self._heard)

    def payloads(self) -> list[bytes]:
        return [str(message["payload"]).encode() for message in self.heard]

    def wait_for(self, count: int, timeout_s: float = 60.0) -> list[bytes]:
        """At least `count` messages, or an assertion that says how many came."""
        with self._changed:
            enough = self._changed.wait_for(lambda: len(self._heard) >= count, timeout=timeout_s)
            assert enough, f"{len(self._heard)} of {count} messages within {timeout_s} s"
        return self.payloads()

    def close(self) -> None:
        with self._changed:
            self._done = True
            self._changed.notify_all()
            self._process.terminate()
        self._thread.join(timeout=10)
