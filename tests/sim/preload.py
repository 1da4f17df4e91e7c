"""Small C libraries that tests preload: built once for each state of their source."""

from __future__ import annotations

import os
import subprocess
import threading
from functools import cache
from pathlib import Path
from shutil import which
from tempfile import gettempdir

import pytest

HERE = Path(__file__).parent


@cache
def built(source: str) -> Path:
    """The library from `tests/sim/<source>`. Skips the test where there is no compiler, but fails in CI."""
    code = HERE / source
    made = Path(gettempdir()) / f"{code.stem}-{os.getuid()}-{code.stat().st_mtime_ns}.so"
    if not made.exists():
        if which("gcc") is None and not os.environ.get("CI"):
            pytest.skip(f"gcc is needed to build {source}")
        part = made.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        command = ["gcc", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(part), str(code)]
        subprocess.run([*command, "-lpthread"], check=True)
        part.rename(made)
    return made
