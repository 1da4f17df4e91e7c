"""Looking at what arrived; nothing here changes anything."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, func, select

from cloud_inspect.db import tables
from cloud_inspect.db.engine import transaction
from edge_wire.messages import BadMessage, DefectReport, DeviceState


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


def devices(engine: Engine, *, device: str | None = None) -> dict[str, Any]:
    """What each device said of itself last: is it there, which model judges, how far is its update, what is wrong.

    A model's name is known once a report that it judged has arrived; its digest always is.
    """
    table, report = tables.device, tables.report
    newest = select(func.max(report.c.id)).group_by(report.c.device)
    said = select(table.c.device, table.c.site, table.c.line, table.c.state, table.c.state_utc)
    if device is not None:
        said = said.where(table.c.device == device)
    with transaction(engine, reads=True) as connection:
        rows = connection.execute(said.order_by(table.c.site, table.c.line, table.c.device)).all()
        judged = connection.execute(select(report.c.payload).where(report.c.id.in_(newest))).scalars().all()
    names = {
        model.digest: f"{model.name} {model.version}" for model in (_model_in(payload) for payload in judged) if model
    }
    return {"devices": [_device(row, names) for row in rows]}


def _model_in(payload: bytes) -> Any:
    try:
        return DefectReport.from_bytes(payload).model
    except BadMessage:  # of a later version: its model stays without a name
        return None


def _device(row: Any, names: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"site": row.site, "line": row.line, "device": row.device, "status": "unknown"}
    if row.state is None:  # only vitals came so far
        return found
    try:
        state = DeviceState.from_bytes(row.state)
    except BadMessage as err:
        return found | {"status": "unreadable", "why": str(err)}
    update = state.update
    return found | {
        "status": state.status,
        "said_utc": row.state_utc.isoformat(),
        "versions": dict(state.versions),
        "model": names.get(update.active) if update else None,
        "digest": update.active if update else None,
        "stage": update.stage if update else None,
        "progress": update.progress if update else None,
        "candidate": f"{update.candidate.name} {update.candidate.version}" if update and update.candidate else None,
        "refused": update.refused.model_dump(mode="json") if update and update.refused else None,
        "sequence": update.sequence if update else None,
        "degraded": [f"{one.code}: {one.detail}" if one.detail else one.code for one in state.degraded],
    }


def _plain(row: Any) -> dict[str, Any]:
    return {key: value.isoformat() if hasattr(value, "isoformat") else value for key, value in row.items()}
