"""What the probe's process may say, and how its words are read: by a strict pattern, for it may be anybody's by now.

{"ok": true, "provider": "cpu", ...}  or  {"ok": false, "code": "known-answer", "message": "..."}
{"unread": "/var/lib/...: Input/output error"}      the disk did not give the bytes: no word about the model
{"unseen": "/srv/models/..."}               only edge-inspect-probe.service says so: no word about the model

answer = read_answer(line)                  # None: these are not the words of our program
probed_or_raise(answer, package_dir)
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from edge_inspect.errors import BadModel, StorageFailing
from edge_inspect.update.examine import Probed
from edge_inspect.update.probe_child import lacks_memory
from edge_wire.fields import Code

ANSWER_BYTES = 1 << 20

Short = Annotated[str, Field(max_length=200)]
Milliseconds = Annotated[float, Field(ge=0)]
Bytes = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Passed(_Strict):
    """`Probed`, key by key."""

    ok: Literal[True] = True
    provider: Short
    variants: tuple[Short, ...]
    latency_p50_ms: Milliseconds
    latency_p99_ms: Milliseconds
    active_p50_ms: Milliseconds
    active_p99_ms: Milliseconds
    memory_bytes: Bytes
    active_memory_bytes: Bytes
    network: Short
    remark: str = ""


class Refused(_Strict):
    ok: Literal[False] = False
    code: Code
    message: str


class Unseen(_Strict):
    """The service's own word, before anything is loaded: these folders do not exist where it lives."""

    unseen: str


class Unread(_Strict):
    """The disk did not give the bytes."""

    unread: str


Answer = Passed | Refused | Unread
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)
_REPLY: TypeAdapter[Answer | Unseen] = TypeAdapter(Answer | Unseen)


def read_answer(line: bytes) -> Answer | None:
    """None for anything that our program would not say."""
    try:
        return _ANSWER.validate_json(line)
    except ValidationError:
        return None


def read_reply(line: bytes) -> Answer | Unseen | None:
    """Of the service; None for anything that ours would not say."""
    try:
        return _REPLY.validate_json(line)
    except ValidationError:
        return None


def answer_of(returncode: int, said: bytes, complained: str) -> Answer:
    """What the child said, or what its end says in its place."""
    answer = read_answer((said.strip().splitlines() or [b""])[-1])
    if answer is not None and returncode == 0:
        return answer
    nothing = "what it said is no answer" if said.strip() else "it said nothing"
    last = (complained.strip().splitlines() or [nothing])[-1][:200]
    if lacks_memory(complained):
        return Refused(code="probe-memory", message=f"more memory than it may have: {last}")
    if returncode == -signal.SIGXCPU:
        return Refused(code="probe-hang", message="more CPU time than it may have")
    how = f"killed by signal {-returncode}" if returncode < 0 else f"exit code {returncode}"
    if -returncode in {each.value for each in signal.Signals}:
        how = f"killed by {signal.Signals(-returncode).name}"
    return Refused(code="probe-crash", message=f"the process that loaded it was {how}: {last}")


def probed_or_raise(answer: Answer, package_dir: Path) -> Probed:
    """Raises BadModel with the answer's code, in one line; StorageFailing where there is none for a disk that fails."""
    if isinstance(answer, Passed):
        return Probed(**answer.model_dump(exclude={"ok"}))
    if isinstance(answer, Unread):
        raise StorageFailing(" ".join(answer.unread.split()))
    message = " ".join(answer.message.split())
    where = "" if str(package_dir) in message else f"{package_dir}: "
    raise BadModel(answer.code, where + message)
