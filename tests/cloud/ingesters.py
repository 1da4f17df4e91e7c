"""`cloud-inspect ingest` as a process of its own, killed and restarted at will; and what else tests of it share."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0


def environment() -> dict[str, str]:
    """Of child processes: this checkout first."""
    here = os.pathsep.join(str(path) for path in (ROOT / "edge", ROOT / "cloud", ROOT))
    return {**os.environ, "PYTHONPATH": here, "PYTHONDONTWRITEBYTECODE": "1"}


def cloud_inspect(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [sys.executable, "-m", "cloud_inspect", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment(), check=False)


class IngesterProcess:
    """Its log is a file of JSON lines; `wait_for(event)` waits for one."""

    def __init__(self, log_path: Path, mqtt: str, db: str, *options: str, name: str = "ingest-a") -> None:
        self.log_path = log_path
        command = [sys.executable, "-m", "cloud_inspect", "ingest", "--mqtt", mqtt, "--db", db, "--name", name]
        self._command = [*command, *options, "--json"]
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            # A session of its own: a kill also reaches what a tool such as strace runs.
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(),
                start_new_session=True,
            )

    def restart(self) -> None:
        """After `kill` or `stop`."""
        assert self.process.poll() is not None
        self.process = self._start()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._end()

    def stop(self) -> dict[str, Any]:
        """SIGTERM; what it counted."""
        self.process.terminate()
        out = self._end()
        assert self.process.returncode == 0, self.log()
        counts: dict[str, Any] = json.loads(out.splitlines()[-1])
        return counts

    def _end(self) -> bytes:
        if self.process.stdout is None or self.process.stdout.closed:
            self.process.wait(timeout=WAIT_S)
            return b""
        out, _ = self.process.communicate(timeout=WAIT_S)
        return out or b""

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    def wait_for(self, event: str, count: int = 1, **facts: Any) -> dict[str, Any]:
        """The `count`-th line `event` with these facts."""
        until_s = time.monotonic() + WAIT_S
        while True:
            found = [line for line in self.events() if line["event"] == event and facts.items() <= line.items()]
            if len(found) >= count:
                return found[count - 1]
            assert time.monotonic() < until_s, f"{event} {facts} did not come: {self.log()[-3000:]}"
            assert self.process.poll() is None, f"ended before {event}: {self.log()[-3000:]}"
            time.sleep(0.05)
