"""`1 part`, `2 parts`: numbers as people write them."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """A number and what it counts; `thing` in the singular, its plural made with an s."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
