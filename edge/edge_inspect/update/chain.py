"""A chain of lines, each with the hash of the one before: which of them is not as it was written. Pure.

1. A line whose successor carries its hash, or that `state.json` remembers, is as it was written when that was.
2. Where a line does not follow the one before it, and is itself as it was written, the one before was changed. Where
   nothing says that it is, both are named: it may be either.
3. A line that was left out, put in or moved is told by the numbers that lines give themselves.

    for fault in faults(links, saved_lines=5, saved_sha256=head): ...       # fault.words, fault.lines
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BEGIN = "0" * 64
"""What the first line carries."""


@dataclass(frozen=True, slots=True)
class Link:
    """One line as it lies there."""

    sha256: str
    before: str | None
    """The hash that it carries; None: it cannot be read."""
    line: int
    """What it calls itself; where it lies if it cannot be read."""


@dataclass(frozen=True, slots=True)
class Fault:
    words: str
    lines: tuple[int, ...]
    """That may have been changed, by the numbers that they give themselves."""


def faults(links: Sequence[Link], saved_lines: int, saved_sha256: str) -> list[Fault]:
    """saved: how far it went at least, and the hash of the last line then; 0 lines where nobody knows."""
    found = [fault for at in range(len(links)) for fault in _faults_at(links, at, saved_lines, saved_sha256)]
    last = links[-1].line if links else 0
    if saved_lines > last:
        found.append(Fault(f"line {last + 1}: missing, and {saved_lines - last} in all at the end", ()))
    elif saved_lines and not found and links[saved_lines - 1].sha256 != saved_sha256:
        found.append(Fault(f"line {saved_lines}: is not the line that was written", (saved_lines,)))
    return found


def _faults_at(links: Sequence[Link], at: int, saved_lines: int, saved_sha256: str) -> Iterator[Fault]:
    """What is wrong between this line and the one before it."""
    link, number = links[at], at + 1
    before = links[at - 1] if at else Link(BEGIN, BEGIN, 0)
    if link.before is None:
        yield Fault(f"line {number}: is no entry", (number,))
    elif before.before is None:
        return  # that one was named
    elif link.line != before.line + 1:
        yield Fault(
            f"line {number}: calls itself line {link.line}; lines were left out, put in or moved here", (link.line,)
        )
    elif link.before != before.sha256:
        follows = f"line {number} does not follow line {number - 1} as it stands"
        if not at or (saved_lines, saved_sha256) == (at, before.sha256):
            yield Fault(f"line {number}: is not the line that was written", (link.line,))
        elif _is_as_written(links, at, saved_lines, saved_sha256):
            yield Fault(f"line {number - 1}: is not the line that was written: {follows}", (before.line,))
        else:
            yield Fault(
                f"line {number - 1} or {number}: is not the line that was written: {follows}", (before.line, link.line)
            )


def _is_as_written(links: Sequence[Link], at: int, saved_lines: int, saved_sha256: str) -> bool:
    """As far as the next line says, or what is saved."""
    if (saved_lines, saved_sha256) == (at + 1, links[at].sha256):
        return True
    return at + 1 < len(links) and links[at + 1].before == links[at].sha256
