"""What a person sees of the devices: the newest word of each, and names for digests where a report gave one."""

from __future__ import annotations

import json
import sqlite3
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from cloud_inspect.db.engine import open_engine
from cloud_inspect.db.upgrade import upgrade
from cloud_inspect.intake.devices import Statement, note
from cloud_inspect.intake.keep import keep
from cloud_inspect.intake.reading import read
from cloud_inspect.settings import DatabaseSettings
from edge_wire.messages import Degraded
from edge_wire.topics import Topics
from edge_wire.updates import ModelUpdate, RefusedModel
from tests.cloud.ingesters import cloud_inspect
from tests.edge.delivery.reports import TOPICS, report, state

NOW = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)
EPOCH = "000000000001-00000000000000aa"
OTHER = "sha256:" + "cd" * 32


@pytest.fixture
def database(tmp_path: Path) -> str:
    """Two devices have spoken: one judges, tries nothing and has refused a model; the other is away."""
    url = f"sqlite:///{tmp_path}/inspect.sqlite3"
    engine = open_engine(DatabaseSettings(url=url))
    upgrade(engine)
    judged = report(1).numbered(EPOCH, 1)
    assert judged.model is not None
    refused = RefusedModel(digest=OTHER, code="trial-new-ok", at=NOW)
    update = ModelUpdate(stage="idle", since=NOW, active=judged.model.digest, refused=refused, sequence=4)
    here = state().model_copy(update={"update": update, "degraded": (Degraded(code="disk-full", detail="2 % left"),)})
    away = here.model_copy(update={"device": "zz-away"}).gone("connection-lost", None)
    topics = Topics(site=TOPICS.site, line=TOPICS.line, device="zz-away")
    old = here.model_copy(update={"update": None})
    note(engine, [Statement(TOPICS, old), Statement(TOPICS, here), Statement(topics, away)], NOW)
    keep(engine, [read(TOPICS.defect, judged.to_bytes())], NOW)
    engine.dispose()
    return url


def asked(*options: str) -> Any:
    done = cloud_inspect("devices", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_device_is_there_with_its_newest_word(database: str) -> None:
    first, second = json.loads(asked("--db", database, "--json"))["devices"]
    model = report(1).model
    assert model is not None
    assert (first["status"], first["model"], first["digest"]) == (
        "online", f"{model.name} {model.version}", model.digest,
    )  # fmt: skip
    assert (first["stage"], first["sequence"], first["refused"]["code"]) == ("idle", 4, "trial-new-ok")
    assert first["degraded"] == ["disk-full: 2 % left"]
    assert (second["device"], second["status"], second["digest"]) == ("zz-away", "offline", None)


def test_a_person_reads_one_line_a_device(database: str) -> None:
    lines = asked("--db", database).splitlines()
    assert lines[1].startswith("plant/press-4/") and "trial-new-ok" in lines[1] and "disk-full" in lines[1]
    assert "zz-away" in lines[2] and "offline" in lines[2]
    assert asked("--db", database, "--device", "edge-0099") == "edge-0099 has said nothing yet\n"


def test_a_state_of_a_later_version_hides_nobody(database: str) -> None:
    path = database.removeprefix("sqlite:///")
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE device SET state = ? WHERE device = 'zz-away'", (b'{"type": "inspect.state/2"}',))
    second = json.loads(asked("--db", database, "--json"))["devices"][1]
    assert second["status"] == "unreadable" and "inspect.state" in second["why"]
