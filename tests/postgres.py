"""A real PostgreSQL for tests: its own cluster on a free port, run by an unprivileged user, read with psql."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.mosquitto import free_port

START_S = 60.0


def find_binaries() -> Path | None:
    """The folder with initdb and postgres of the newest version installed."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda folder: int(re.sub(r"\D", "", folder.parent.name) or 0))
    initdb = shutil.which("initdb")
    return Path(initdb).resolve().parent if initdb else None


class Postgres:
    """Made by `create`, then `start`, `stop` (as a crash: nothing is flushed in order), `remove`."""

    def __init__(self) -> None:
        binaries = find_binaries()
        assert binaries is not None
        self._bin = binaries
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0
        # Not below pytest's own folder: only root may enter that one.
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._as_user = _unprivileged(self.folder)
        self.log_path = self.folder / "log"

    def create(self) -> Postgres:
        """initdb; about a second."""
        command = [self._bin / "initdb", "-D", self.folder / "data", "-U", "inspect", "-A", "trust", "-E", "UTF8"]
        made = subprocess.run(
            [*command, "--no-locale"], check=False, capture_output=True, timeout=120, cwd="/", **self._as_user
        )
        assert made.returncode == 0, made.stderr.decode()
        return self.start()

    def start(self) -> Postgres:
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}"]
        settings += ["shared_buffers=16MB", "max_connections=20"]
        options = [part for setting in settings for part in ("-c", setting)]
        with self.log_path.open("ab") as log:
            command = [self._bin / "postgres", "-D", self.folder / "data", *options]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", **self._as_user
            )
        until = time.monotonic() + START_S
        while self._psql("postgres", "SELECT 1", check=False).returncode != 0:
            assert self._process.poll() is None and time.monotonic() < until, self.log_path.read_text()[-2000:]
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """As a crash: immediate shutdown, recovery at the next start."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=START_S)
            self._process = None

    def new_database(self) -> str:
        """URL of an empty database."""
        self._made += 1
        name = f"inspect{self._made}"
        self._psql("postgres", f"CREATE DATABASE {name}")
        return f"postgresql://inspect@127.0.0.1:{self.port}/{name}"

    def query(self, url: str, sql: str) -> list[list[str]]:
        """Rows as psql prints them."""
        text = self._psql(url.rpartition("/")[2], sql).stdout.decode()
        return [line.split("|") for line in text.splitlines()]

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _psql(self, database: str, sql: str, *, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "inspect", "-d", database]
        return subprocess.run(
            [self._bin / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *where, "-c", sql],
            capture_output=True,
            timeout=120,
            check=check,
            cwd="/",
        )


def _unprivileged(folder: Path) -> dict[str, Any]:
    """PostgreSQL refuses to be run by root: Popen's arguments for somebody else, who then owns `folder`."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = names.get("postgres") or names["nobody"]
    os.chown(folder, user.pw_uid, user.pw_gid)
    folder.chmod(0o755)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
