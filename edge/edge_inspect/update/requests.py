"""What a person asks of a running daemon about its models, through two folders of small files.

    requests/<number>.json    written whole by a command; a daemon takes them in the order of their numbers
    answers/<number>.json     written whole by the daemon, removed by the command that reads it

1. A request is answered once; one that waited longer than LATE_S (the daemon was not running) is refused.
2. Whoever may write into the folder may ask: the daemon's own user and root.

    number = ask(folder, Request(kind="rollback", by="anna"))
    answer = wait_for(folder, number, seconds=30)
"""

from __future__ import annotations

import contextlib
import getpass
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import ValidationError, model_validator

from edge_inspect.durable import make_folder, remove_durably, write_durably
from edge_inspect.errors import StorageFailing
from edge_wire.fields import Block, Digest, OneLine

REQUESTS = "requests"
ANSWERS = "answers"
LATE_S = 180.0
"""Longer than a daemon that runs needs to hear of it: a candidate is being probed, at most."""
MOST_BYTES = 4096
STEP_S = 0.1
FORGOTTEN_S = 3600.0
"""After so long nobody comes for an answer any more."""


class Request(Block):
    kind: Literal["activate", "rollback"]
    digest: Digest | None = None
    """Of the package to activate."""
    by: OneLine
    why: OneLine = ""

    @model_validator(mode="after")
    def _says_what(self) -> Request:
        if self.kind == "activate" and self.digest is None:
            raise ValueError("activate: which? a digest is missing")
        return self


class Answer(Block):
    ok: bool
    code: str = ""
    text: OneLine


def who_asks() -> str:
    """The user name of the person, behind sudo too: one line, whatever the environment says."""
    said = os.environ.get("SUDO_USER") or _user()
    clean = "".join(letter if letter.isprintable() else " " for letter in said).strip()
    return clean[:100] or str(os.getuid())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def ask(folder: Path, request: Request) -> str:
    """Put a request; its number. Raises StorageFailing."""
    make_folder(folder / REQUESTS)
    number = f"{time.time_ns():020d}-{os.getpid()}"
    write_durably(folder / REQUESTS / f"{number}.json", request.model_dump_json().encode())
    return number


def wait_for(
    folder: Path, number: str, seconds: float, *, clock_s: Callable[[], float] = time.monotonic
) -> Answer | None:
    """The daemon's answer; None if it does not come in time, and then the request is taken back."""
    path, until_s = folder / ANSWERS / f"{number}.json", clock_s() + seconds
    while clock_s() < until_s:
        try:
            answer = Answer.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            time.sleep(STEP_S)
            continue
        with contextlib.suppress(OSError):
            path.unlink()
        return answer
    with contextlib.suppress(OSError):
        (folder / REQUESTS / f"{number}.json").unlink()
    return None


class Desk:
    """The daemon's side; one thread's."""

    def __init__(self, folder: Path, *, utc_s: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._utc_s = utc_s
        with contextlib.suppress(StorageFailing):  # made by the daemon's own user, who may then remove what root asked
            make_folder(folder / REQUESTS)
            make_folder(folder / ANSWERS)

    def next(self) -> tuple[str, Request] | None:
        """The oldest request that makes sense; it is gone from the folder then, and must be answered."""
        for path in self._waiting():
            number = path.stem
            try:
                request = Request.model_validate_json(path.read_bytes()[:MOST_BYTES])
                late = self._utc_s() - path.stat().st_mtime > LATE_S
                remove_durably(path)
            except ValidationError:
                with contextlib.suppress(StorageFailing):
                    remove_durably(path)
                self.answer(number, Answer(ok=False, code="bad-request", text="the request cannot be read"))
                continue
            except (OSError, StorageFailing):
                continue
            if late:
                self.answer(number, Answer(ok=False, code="too-late", text="asked while no daemon took requests"))
                continue
            return number, request
        return None

    def answer(self, number: str, answer: Answer) -> None:
        """A disk that does not take it costs the person the answer, and nothing else."""
        with contextlib.suppress(StorageFailing, OSError):
            make_folder(self._folder / ANSWERS)
            self._forget_old()
            write_durably(self._folder / ANSWERS / f"{number}.json", answer.model_dump_json().encode())

    def _waiting(self) -> list[Path]:
        try:
            return sorted((self._folder / REQUESTS).glob("*.json"))
        except OSError:
            return []

    def _forget_old(self) -> None:
        for path in (self._folder / ANSWERS).iterdir():
            if self._utc_s() - path.stat().st_mtime > FORGOTTEN_S:
                path.unlink()
