"""Looking at what arrived; nothing here changes anything."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, func, select

from cloud_inspect.db import tables
from cloud_inspect.db.engine import transaction


def reports(engine: Engine, *, device: str | None = None, limit: int = 20) -> dict[str, Any]:
    """The newest reports (newest first), how many there are, how many messages lie in quarantine."""
    report, picture = tables.report, tables.picture
    size = func.coalesce(func.length(picture.c.jpeg), 0).label("picture_bytes")
    wanted = [column for column in report.c if column.name not in ("id", "payload")]
    query = select(*wanted, size).outerjoin(picture, picture.c.report_id == report.c.id)
    count = select(func.count()).select_from(report)
    if device is not None:
        query, count = query.where(report.c.device == device), count.where(report.c.device == device)
    with transaction(engine, reads=True) as connection:
        rows = connection.execute(query.order_by(report.c.id.desc()).limit(limit)).mappings().all()
        total = connection.execute(count).scalar_one()
        quarantined = connection.execute(select(func.count()).select_from(tables.quarantine)).scalar_one()
    return {"total": total, "quarantined": quarantined, "reports": [_plain(row) for row in rows]}


def quarantine(engine: Engine, *, device: str | None = None, limit: int = 20) -> dict[str, Any]:
    """The newest messages that were set aside, newest first."""
    table = tables.quarantine
    query = select(*(column for column in table.c if column.name != "payload"))
    if device is not None:
        query = query.where(table.c.device == device)
    with transaction(engine, reads=True) as connection:
        rows = connection.execute(query.order_by(table.c.id.desc()).limit(limit)).mappings().all()
    return {"quarantine": [_plain(row) for row in rows]}


def _plain(row: Any) -> dict[str, Any]:
    return {key: value.isoformat() if hasattr(value, "isoformat") else value for key, value in row.items()}
