"""What the pages quote from the log is told by the program, under that name: `who.what`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def events(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.fullmatch(
            r"log\.(debug|info|warning|error|critical)", ast.unparse(node.func)
        ):
            for part in ast.walk(node.args[0]):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield node.lineno, part.value


def told() -> dict[str, str]:
    """Event -> where it is told."""
    return {
        event: f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / "edge" / "edge_inspect").rglob("*.py"))
        for line, event in events(ast.parse(path.read_text()))
    }


def test_what_the_operations_page_quotes_from_the_log_is_told() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    in_the_log = re.findall(r"[^\n]*(?:journal|log |again and again)[^\n]*", text)
    quoted = {word for line in in_the_log for word in re.findall(r"`([a-z]+\.[a-z_]+)`", line)}
    heads = {event.partition(".")[0] for event in told()}
    assert {"camera.lost", "camera.up"} <= quoted
    assert {word for word in quoted if word.partition(".")[0] in heads} <= told().keys()
