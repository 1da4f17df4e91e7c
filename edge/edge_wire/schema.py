"""The wire contract for people and tools of other languages: JSON Schemas and one AsyncAPI 3.0 document.

1. Everything in docs/wire is written by this module from the models; nothing there is edited by hand.
2. The same models always give the same bytes, so that a check can compare.

    python -m edge_wire.schema            # write docs/wire
    python -m edge_wire.schema --check    # exit 1 and name the files that are out of step
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from edge_wire.manifest import Manifest
from edge_wire.messages import (
    MAX_PAYLOAD_BYTES,
    MESSAGES,
    Ack,
    DefectReport,
    Desired,
    DeviceState,
    Gone,
    Message,
    Resync,
    Vitals,
)
from edge_wire.topics import NAME_PATTERN, PREFIX

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "wire"
FILES: dict[str, type[BaseModel]] = {
    "defect.schema.json": DefectReport,
    "state.schema.json": DeviceState,
    "vitals.schema.json": Vitals,
    "ack.schema.json": Ack,
    "resync.schema.json": Resync,
    "gone.schema.json": Gone,
    "desired.schema.json": Desired,
    "manifest.schema.json": Manifest,
}
_ASYNCAPI = "asyncapi.json"
_CHANNELS: tuple[tuple[str, type[Message], str, int, bool, str], ...] = (
    ("defect", DefectReport, "send", 1, False, "A part was NG or could not be judged. OK parts send nothing."),
    ("state", DeviceState, "send", 1, True, "Online or offline; the last will is the same message."),
    ("vitals", Vitals, "send", 0, False, "Counts since the daemon started, every few seconds."),
    ("ack", Ack, "receive", 1, False, "The plant has these reports in its database."),
    ("resync", Resync, "receive", 1, False, "The plant asks for these reports again."),
    ("gone", Gone, "send", 1, False, "The plant asked for these reports, but they are not in the outbox any more."),
    ("desired", Desired, "receive", 1, True, "There is a model rollout: a hint to look sooner. Trust: its signatures."),
)
"""Topic's last level, message, what the device does, QoS, retained, what for."""


def documents() -> dict[str, str]:
    """File name -> content of everything in docs/wire."""
    found = {name: _text(_schema(model)) for name, model in FILES.items()}
    return {**found, _ASYNCAPI: _text(asyncapi())}


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document, complete in itself."""
    _, schemas = models_json_schema(
        [(model, "validation") for model in MESSAGES], ref_template="#/components/schemas/{model}"
    )
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "edge-inspect",
            "version": PREFIX.rpartition("/v")[2],
            "description": "What an inspection device tells its plant and what it listens to, from the device's side: "
            f"`send` is what the device publishes. No payload is larger than {MAX_PAYLOAD_BYTES} bytes.",
            "license": {"name": "AGPL-3.0-or-later"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "plant": {
                "host": "broker.plant.example:8883",
                "protocol": "secure-mqtt",
                "protocolVersion": "5.0",
                "description": "MQTT 5 (3.1.1 by configuration) over TLS; the client id is the device's name.",
            }
        },
        "channels": {leaf: _channel(leaf, model, what) for leaf, model, _, _, _, what in _CHANNELS},
        "operations": {
            f"{action}-{leaf}": {
                "action": action,
                "channel": {"$ref": f"#/channels/{leaf}"},
                "bindings": {"mqtt": {"qos": qos, "retain": retain, "bindingVersion": "0.2.0"}},
            }
            for leaf, _, action, qos, retain, _ in _CHANNELS
        },
        "components": {
            "parameters": {"name": {"description": f"1-40 characters: {NAME_PATTERN}"}},
            "messages": {
                model.__name__: {
                    "name": model.kind,
                    "contentType": "application/json",
                    "payload": {"$ref": f"#/components/schemas/{model.__name__}"},
                }
                for model in MESSAGES
            },
            "schemas": schemas["$defs"],
        },
    }


def _channel(leaf: str, model: type[Message], what: str) -> dict[str, Any]:
    return {
        "address": f"{PREFIX}/{{site}}/{{line}}/{{device}}/{leaf}",
        "description": what,
        "parameters": {level: {"$ref": "#/components/parameters/name"} for level in ("site", "line", "device")},
        "messages": {model.__name__: {"$ref": f"#/components/messages/{model.__name__}"}},
    }


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return {"$schema": GenerateJsonSchema.schema_dialect, **model.model_json_schema()}


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m edge_wire.schema", description="Write or check docs/wire.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is out of step")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help=f"[default: {FOLDER}]")
    options = parser.parse_args(argv)
    folder: Path = options.out
    stale = [
        name
        for name, text in documents().items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text
    ]
    if options.check:
        for name in stale:
            sys.stderr.write(f"{folder / name}: out of step with the models; run python -m edge_wire.schema\n")
        return 1 if stale else 0
    folder.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (folder / name).write_text(documents()[name], encoding="utf-8")
        sys.stderr.write(f"wrote {folder / name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
