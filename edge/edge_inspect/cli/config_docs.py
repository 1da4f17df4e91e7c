"""docs/configuration.md and the starter file, both written from the models: what is documented is what is checked.

`edge-inspect config docs` prints the page; a test compares it with the committed one. Descriptions are the texts that
stand under the keys in `config_model.py`, `config_line.py` and `verdict/recipe.py`; limits and defaults come from the
JSON Schema.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
import types
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel

from edge_inspect.config import Config
from edge_inspect.verdict.recipe import Recipe

COMPUTED = "computed"
REQUIRED = "required"

HEAD = """\
# Configuration

*Written by `edge-inspect config docs` from the models that check the files; do not edit by hand.*

Two kinds of file, both TOML. The **configuration** says what this box is: cameras, model, broker. A **recipe** says
what counts as a defect on a line, and may be shared by many boxes.

    edge-inspect config init line.toml      a file to start from
    edge-inspect config check line.toml     everything that `run` would refuse, without starting anything
    edge-inspect config show line.toml      what is in force, defaults included

- Unknown keys, wrong types and contradictions are refused in one line: file, key, what was found, what is allowed; exit
  code 78. Values are taken as written: `"3"` is no number, `1` is not `true`.
- Paths are relative to the file they stand in. `credential:NAME` is a file that systemd's `LoadCredential=` handed
  over.
- Secrets never stand in a file: a user name or password inside a URL is refused; `username` and `password_file` are
  there for it.
- A name (`site`, `line`, `device`, a camera's `name`) is 1-40 of `A-Z a-z 0-9 . _ -` and begins with a letter or digit.
- A configuration that every user of the box may write (`chmod o+w`) is refused. One that a group may write is accepted:
  who is in that group is the owner's decision.
- Command-line options win over the configuration; a camera's `policy` wins over its recipe's.

"""


class Key(NamedTuple):
    name: str
    allowed: str
    default: str
    """TOML, or REQUIRED, COMPUTED, or "" for nothing."""
    text: str


class TableDoc(NamedTuple):
    header: str
    """`[mqtt]`, `[[camera]]`, or "" for keys outside any table."""
    text: str
    keys: tuple[Key, ...]
    optional: bool
    """The whole table may be left out and nothing takes its place."""


def configuration_page() -> str:
    """The text of docs/configuration.md."""
    parts = [HEAD, "## The configuration\n"]
    parts += [_section(table) for table in tables(Config)]
    parts.append("## A recipe\n\nTo start from: `models/recipes/metal-plate.toml`.\n")
    parts += [_section(table) for table in tables(Recipe)]
    return "\n".join(parts).rstrip() + "\n"


def starter_file(camera: str) -> str:
    """A configuration that loads as it is, with every other key in a comment beside its default."""
    lines = ["# edge-inspect: what this box is to do. Every key: docs/configuration.md", ""]
    given = {"name": "camera", "source": camera}
    for table in tables(Config):
        off = "# " if table.optional else ""
        if table.header:
            lines += ["", *_comment(table.text), f"{off}{table.header}"]
        for key in table.keys:
            choices = key.allowed.replace("`", "")
            told = key.default == REQUIRED or not re.search(r"[0-9\"]", choices)
            lines += _comment(key.text if told else f"{key.text} Allowed: {choices}.")
            if key.default == REQUIRED and not table.optional:
                lines.append(f"{key.name} = {json.dumps(given[key.name])}")
            else:
                shown = key.default if key.default not in (REQUIRED, COMPUTED, "") else "..."
                lines.append(f"# {key.name} = {shown}")
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 110)]


def tables(root: type[BaseModel]) -> Iterator[TableDoc]:
    """Every table of a file in the order of its model, keys outside any table first."""
    schema = root.model_json_schema()
    yield _table(root, "", schema, schema, optional=False)
    yield from _inner_tables(root, "", schema, schema, optional=False)


def _inner_tables(
    outer: type[BaseModel], path: str, schema: dict[str, Any], root: dict[str, Any], *, optional: bool
) -> Iterator[TableDoc]:
    """`path`: what stands before an inner table's name, `line.` for `[line.gpio]`."""
    for name, field in outer.model_fields.items():
        for model in _models(field.annotation):
            inner = root["$defs"][model.__name__]
            kind = schema["properties"][name].get("type")
            dotted = f"{path}{name}"
            header = {"array": f"[[{dotted}]]", "object": f"[{dotted}.NAME]"}.get(kind, f"[{dotted}]")
            absent = optional or (field.default in (None, ()) and not field.is_required())
            yield _table(model, header, inner, root, optional=absent)
            yield from _inner_tables(model, f"{dotted}.", inner, root, optional=absent)


def _table(
    model: type[BaseModel], header: str, schema: dict[str, Any], root: dict[str, Any], *, optional: bool
) -> TableDoc:
    texts = key_texts(model)
    keys = []
    for name, field in model.model_fields.items():
        if list(_models(field.annotation)):
            continue
        prop = schema["properties"][name]
        keys.append(Key(name, _allowed(prop, root), _default(name, prop, schema), texts.get(name, "")))
    text = " ".join((model.__doc__ or "").split())
    text = re.sub(r"^`\[+[^`]*`(, `[^`]*`| and `[^`]*`)*:? ?", "", text)
    return TableDoc(header, text[:1].upper() + text[1:], tuple(keys), optional)


def key_texts(model: type[BaseModel]) -> dict[str, str]:
    """The text under each key in the model's source, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for key, under in zip(body.body, body.body[1:], strict=False):
        if isinstance(key, ast.AnnAssign) and isinstance(key.target, ast.Name) and isinstance(under, ast.Expr):
            texts[key.target.id] = " ".join(str(ast.literal_eval(under.value)).split())
    return texts


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """Models inside `tuple[A, ...]`, `A | None`, `dict[str, A]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, Annotated, list, tuple, dict):
        for inner in get_args(annotation):
            yield from _models(inner)


def _default(name: str, prop: dict[str, Any], schema: dict[str, Any]) -> str:
    if name in schema.get("required", ()):
        return REQUIRED
    if "default" not in prop:
        return COMPUTED
    return "" if prop["default"] is None else json.dumps(prop["default"])


def _allowed(prop: dict[str, Any], root: dict[str, Any]) -> str:
    """What a value may be, in a few words."""
    if "$ref" in prop:
        return _allowed(root["$defs"][prop["$ref"].rpartition("/")[2]], root)
    if "anyOf" in prop:
        return " or ".join(_allowed(choice, root) for choice in prop["anyOf"] if choice.get("type") != "null")
    if "enum" in prop:
        return ", ".join(f"`{json.dumps(choice)}`" for choice in prop["enum"])
    if "const" in prop:
        return f"`{json.dumps(prop['const'])}`"
    if prop.get("type") == "array":
        if "prefixItems" in prop:
            return f"[{', '.join(_allowed(item, root) for item in prop['prefixItems'])}]"
        return f"list of {_allowed(prop['items'], root)}"
    kinds = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`", "string": "text"}
    kind = "path" if prop.get("format") == "path" else kinds[prop["type"]]
    return " ".join(filter(None, (kind, _limits(prop))))


def _limits(prop: dict[str, Any]) -> str:
    least, most = prop.get("minimum"), prop.get("maximum")
    above, below = prop.get("exclusiveMinimum"), prop.get("exclusiveMaximum")
    if least is not None and most is not None:
        return f"{_plain(least)} to {_plain(most)}"
    signs = ((">=", least), (">", above), ("<=", most), ("<", below))
    return ", ".join(f"{sign} {_plain(value)}" for sign, value in signs if value is not None)


def _plain(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _section(table: TableDoc) -> str:
    lines = [f"### `{table.header}`", ""] if table.header else []
    if table.text:
        lines += [table.text, ""]
    lines += ["| key | allowed | default | |", "|---|---|---|---|"]
    for key in table.keys:
        default = {REQUIRED: "**required**", COMPUTED: "see right", "": "-"}.get(key.default, f"`{key.default}`")
        row = (f"`{key.name}`", key.allowed, default, key.text)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join([*lines, ""])
