"""Looking into the evidence from outside, while the daemon runs or not: nothing is written, nothing is locked for long.

All rows that are wanted are read at once, so that a long export does not keep the index's log from shrinking.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from edge_inspect.delivery.evidence_file import Damaged, Record, read_picture
from edge_inspect.delivery.evidence_index import BUSY_S, FILE_NAME
from edge_inspect.errors import Refusal, StorageFailing


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which parts; an empty choice means all."""

    verdicts: Sequence[str] = ()
    cameras: Sequence[str] = ()
    since_utc_ns: int | None = None
    until_utc_ns: int | None = None
    id: str | None = None
    limit: int | None = None
    """So many parts, the newest."""


@dataclass(frozen=True, slots=True)
class Picture:
    file: str
    bytes: int
    sha256: str
    record: Record


@dataclass(slots=True)
class KeptPart:
    """One part and its pictures, the whole frame first."""

    record: Record
    pictures: list[Picture] = field(default_factory=list)


def find_parts(folder: Path, wanted: Wanted) -> list[KeptPart]:
    """Newest first. Raises Refusal when there is no evidence, StorageFailing when it cannot be read."""
    path = folder / FILE_NAME
    if not path.is_file():
        raise Refusal(f"{folder}: there is no evidence")
    try:
        with closing(_read_only(path)) as db:
            found = db.execute(*_query(wanted)).fetchall()
    except sqlite3.Error as err:
        raise StorageFailing(f"{path}: {err}; the daemon makes it anew at its next start") from err
    parts: dict[str, KeptPart] = {}
    for file, size, sha256, told in found:
        try:
            record = Record.model_validate_json(told)
        except ValidationError as err:
            raise StorageFailing(f"{path}: a record of {file} cannot be read") from err
        parts.setdefault(record.id, KeptPart(record)).pictures.append(Picture(file, size, sha256, record))
    return list(parts.values())


def read_whole(folder: Path, picture: Picture) -> bytes:
    """The file, checked against the index. Raises Damaged, or FileNotFoundError when it has been removed meanwhile."""
    stored, _ = read_picture(folder, picture.file)
    if hashlib.sha256(stored).hexdigest() != picture.sha256:
        raise Damaged("not the file that was stored")
    return stored


def _query(wanted: Wanted) -> tuple[str, list[str | int]]:
    conditions: list[str] = []
    values: list[str | int] = []
    for column, choice in (("verdict", wanted.verdicts), ("camera", wanted.cameras)):
        if choice:
            conditions.append(f"{column} IN ({', '.join('?' * len(choice))})")
            values += choice
    for condition, value in (
        ("captured_utc_ns >= ?", wanted.since_utc_ns),
        ("captured_utc_ns < ?", wanted.until_utc_ns),
        ("id = ?", wanted.id),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    values.append(-1 if wanted.limit is None else wanted.limit)
    return (
        "SELECT file, bytes, sha256, record FROM picture JOIN "
        f"(SELECT id AS chosen, max(row) AS newest FROM picture {where} GROUP BY id ORDER BY newest DESC LIMIT ?) "
        "ON id = chosen ORDER BY newest DESC, what DESC",
        values,
    )


def _read_only(path: Path) -> sqlite3.Connection:
    # Without a WAL file nobody is writing, and a folder we may not write to would be no place for SQLite's -shm file.
    alone = "" if path.with_name(path.name + "-wal").exists() else "&immutable=1"
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{alone}", uri=True, timeout=BUSY_S)
