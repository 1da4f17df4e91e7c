"""Payloads that devices have sent stay readable for ever, and docs/wire says the same as the models."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edge_wire import schema
from edge_wire.messages import MESSAGES, Message
from tests.wire.samples import SAMPLES

GOLDEN = Path(__file__).parent / "golden"
LINK_ERRORS = schema.FOLDER.parents[1] / "edge" / "edge_inspect" / "delivery" / "link_errors.py"
PAYLOADS = sorted(GOLDEN.glob("*.json"))
KINDS: dict[str, type[Message]] = {model.kind.split(".")[1].split("/")[0]: model for model in MESSAGES}


def kind_of(path: Path) -> type[Message]:
    return KINDS[path.name.split(".")[0].split("-")[0]]


def contained(old: Any, new: Any) -> bool:
    """Everything that `old` says is said by `new`, which may say more."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(key in new and contained(value, new[key]) for key, value in old.items())
    if isinstance(old, list):
        return isinstance(new, list) and len(old) == len(new) and all(map(contained, old, new))
    return bool(old == new)


def test_golden_payloads_are_only_ever_added_to() -> None:
    listed = dict(reversed(line.split()) for line in (GOLDEN / "SHA256SUMS").read_text().splitlines())
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in PAYLOADS}
    assert found == listed


@pytest.mark.parametrize("path", PAYLOADS, ids=lambda path: path.name)
def test_every_payload_ever_sent_is_still_understood(path: Path) -> None:
    message = kind_of(path).from_bytes(path.read_bytes())
    assert contained(json.loads(path.read_bytes()), json.loads(message.to_bytes()))


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_sent_today_has_a_golden_payload(name: str) -> None:
    assert SAMPLES[name].to_bytes() in [path.read_bytes() for path in PAYLOADS], (
        "add a new golden payload, keep the old"
    )


@pytest.mark.parametrize("path", PAYLOADS, ids=lambda path: path.name)
def test_published_schema_accepts_every_payload(path: Path) -> None:
    name = f"{path.name.split('.')[0].split('-')[0]}.schema.json"
    jsonschema.Draft202012Validator(json.loads(schema.documents()[name])).validate(json.loads(path.read_bytes()))


def test_docs_are_in_step_with_the_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert schema.main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_document_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert schema.main(["--out", str(tmp_path)]) == 0
    assert schema.main(["--out", str(tmp_path), "--check"]) == 0
    (tmp_path / "ack.schema.json").write_text("{}")
    capsys.readouterr()
    assert schema.main(["--out", str(tmp_path), "--check"]) == 1
    assert "ack.schema.json" in capsys.readouterr().err


@pytest.mark.parametrize("name", schema.FILES)
def test_schemas_are_valid_json_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(schema.documents()[name]))


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_asyncapi_document_is_complete_in_itself() -> None:
    document = schema.asyncapi()
    assert document["asyncapi"] == "3.0.0"
    assert {channel["address"].rpartition("/")[2] for channel in document["channels"].values()} == set(KINDS)
    for reference in references(document):
        node = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]


def test_every_example_in_the_documentation_is_a_message() -> None:
    text = (schema.FOLDER.parent / "wire.md").read_text()
    examples = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 6
    for example in examples:
        kind = json.loads(example)["type"].removeprefix("inspect.").removesuffix("/1")
        message = KINDS[kind].from_bytes(example.encode())
        assert json.loads(message.to_bytes()) == json.loads(example)


def test_every_code_of_a_failed_connection_is_documented() -> None:
    text = (schema.FOLDER.parent / "wire.md").read_text()
    codes = set(
        re.findall(r'"([a-z]+(?:-[a-z]+)+|refused|unreachable|timeout|silent|closed)"', LINK_ERRORS.read_text())
    )
    assert len(codes) > 20 and not {code for code in codes if f"`{code}`" not in text}
