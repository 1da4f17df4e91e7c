"""What docs/operations.md quotes is what programs print."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_inspect.cli.options import NOT_PERMITTED
from edge_inspect.delivery.outbox_file import hold_lock
from edge_inspect.errors import Refusal

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()


def test_page_quotes_what_a_second_daemon_prints(tmp_path: Path) -> None:
    lock = hold_lock(tmp_path / "outbox.sqlite3")
    try:
        with pytest.raises(Refusal) as refused:
            hold_lock(tmp_path / "outbox.sqlite3")
    finally:
        os.close(lock)
    said = str(refused.value).partition(": ")[2].replace(str(os.getpid()), "N")
    assert f"`{said}`" in PAGE


def test_page_quotes_what_another_user_is_told() -> None:
    assert f"`{NOT_PERMITTED.partition(':')[0]}`" in PAGE
