"""One TOML file in, one checked model out; or one line that says what to change.

1. A file either becomes a model or a BadConfig; nothing else leaves this module, whatever the bytes are.
2. A message is one line: file, key, what was found, what is allowed, and the nearest known key for a slip of the pen.
3. Values are taken as written: "3" is not a number, 1 is not true, 2.0 is not a whole number; nan and inf are refused.
4. The work is bounded: size, nesting and length of dotted keys are checked before or while parsing.

    >>> class Belt(BaseModel, extra="forbid"):
    ...     speed: int
    >>> belt = read_toml(Path("belt.toml"), Belt)           # doctest: +SKIP
    edge-inspect: belt.toml: key `spede`: unknown key; allowed: speed; did you mean `speed`?
"""

from __future__ import annotations

import difflib
import json
import math
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from edge_inspect.errors import BadConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 1 << 20
MAX_DEPTH = 16
MAX_SHOWN = 60

_PART = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_-]){_PART}(?:[ \t]*\.[ \t]*{_PART}){{{4 * MAX_DEPTH},}}")
_PASSWORD = re.compile(r"(://[^\s/@:]*:)[^\s/@]*@")

Model = TypeVar("Model", bound=BaseModel)
Key = tuple[int | str, ...]


def read_toml(path: Path, model_type: type[Model]) -> Model:
    """Read `path` and check it against `model_type`. Raises BadConfig, one line, for anything that is wrong."""
    where = _one_line(str(path))
    document = _parse(_text(path, where), where)
    for key, found, allowed in _unusual(document, ()):
        raise BadConfig(f"{where}: key `{_dotted(key)}`: found {found}, allowed: {allowed}")
    try:
        # Through JSON: pydantic's strict JSON mode takes text for enums and paths, lists for tuples, and nothing else.
        return model_type.model_validate_json(json.dumps(document, default=str), strict=True)
    except ValidationError as err:
        raise BadConfig(f"{where}: {_explain(err, model_type)}") from err


def _text(path: Path, where: str) -> str:
    try:
        if path.is_dir():
            raise BadConfig(f"{where}: found a folder, allowed: a TOML file")
        if path.exists() and not path.is_file():
            raise BadConfig(f"{where}: found a device, pipe or socket, allowed: a TOML file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError as err:
        raise BadConfig(f"{where}: no such file{_nearest_file(path)}") from err
    except (OSError, ValueError) as err:  # ValueError: a NUL in the path itself
        reason = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
        raise BadConfig(f"{where}: cannot be read: {reason}") from err
    if len(raw) > MAX_BYTES:
        raise BadConfig(f"{where}: found more than {MAX_BYTES} bytes, allowed: at most {MAX_BYTES}")
    if not raw.strip():
        raise BadConfig(f"{where}: found an empty file, allowed: TOML with at least the required keys")
    if b"\0" in raw:
        raise BadConfig(f"{where}: found a NUL byte at offset {raw.index(0)}, allowed: TOML text in UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = raw.count(b"\n", 0, err.start) + 1
        raise BadConfig(f"{where}: line {line}: found bytes that are not UTF-8, allowed: TOML text in UTF-8") from err


def _nearest_file(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix == ".toml"]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {_one_line(str(path.parent / near[0]))}?" if near else ""


def _parse(text: str, where: str) -> dict[str, Any]:
    long_key = _LONG_KEY.search(text)
    if long_key is not None:
        line = text.count("\n", 0, long_key.start()) + 1
        raise BadConfig(f"{where}: line {line}: found a key of more than {4 * MAX_DEPTH} parts, allowed: {MAX_DEPTH}")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise BadConfig(f"{where}: not TOML: {_one_line(str(err), 200)}") from err
    except RecursionError as err:
        raise BadConfig(f"{where}: not usable: nested too deeply, allowed: at most {MAX_DEPTH} levels") from err
    except ValueError as err:  # a number of thousands of digits
        raise BadConfig(f"{where}: not usable: {_one_line(str(err), 200)}") from err


def _unusual(value: object, key: Key) -> Iterator[tuple[Key, str, str]]:
    """What TOML can say but no model of ours wants."""
    if len(key) > MAX_DEPTH:
        yield key, "deeper nesting", f"at most {MAX_DEPTH} levels"
    elif isinstance(value, float) and not math.isfinite(value):
        yield key, str(value), "a finite number"
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _unusual(inner, (*key, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _unusual(inner, (*key, index))


def _explain(err: ValidationError, model_type: type[BaseModel]) -> str:
    """The most telling mistake in one line, and how many more there are."""
    errors = err.errors(include_url=False, include_context=False)
    errors.sort(key=lambda error: (error["type"] != "extra_forbidden", error["type"] == "missing"))
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return _explain_one(errors[0], model_type) + more


def _explain_one(error: ErrorDetails, model_type: type[BaseModel]) -> str:
    key = tuple(part for part in error["loc"] if not (isinstance(part, str) and part.startswith("function-")))
    name = f"key `{_dotted(key)}`: " if key else ""
    if error["type"] == "extra_forbidden":
        known = sorted(_known_keys(model_type, key[:-1]))
        close = difflib.get_close_matches(str(key[-1]), known, n=1)
        slip = f"; did you mean `{close[0]}`?" if close else ""
        return f"{name}unknown key; allowed: {', '.join(known) or 'nothing'}{slip}"
    allowed = _one_line(re.sub(r"^(Input|Value|String|List|Tuple) should (be )?", "", error["msg"]), 400)
    if error["type"] == "missing":
        return f"{name}missing, this key is required"
    if error["type"] in ("value_error", "assertion_error"):
        allowed = re.sub(r"^(Value|Assertion) (error|failed), ", "", error["msg"])
        return f"{name}{_found(error['input'])}{_one_line(allowed, 400)}"
    hint = _near_choice(error["input"], allowed)
    return f"{name}{_found(error['input']) or 'found something else, '}allowed: {allowed}{hint}"


def _found(value: object) -> str:
    if isinstance(value, Mapping):
        return "" if value else "found an empty table, "
    if isinstance(value, (str, int, float, Sequence)):
        shown = json.dumps(value, ensure_ascii=True, default=str)
        hidden = _PASSWORD.sub(r"\1***@", shown)
        return f"found {_one_line(hidden, MAX_SHOWN)}, "
    return ""


def _near_choice(value: object, allowed: str) -> str:
    choices = re.findall(r"'([^']*)'", allowed)
    near = difflib.get_close_matches(value, choices, n=1) if isinstance(value, str) else []
    return f"; did you mean '{near[0]}'?" if near and len(choices) > 1 else ""


def _known_keys(model_type: type[BaseModel], key: Key) -> set[str]:
    """Names that the models standing at `key` take; several when the key is a union of tables."""
    here: list[object] = [model_type]
    for part in key:
        inner = [annotation for model in _models(here) for annotation in _step(model, part)]
        here = inner or here  # a union's tag in the key is no step of its own
    return {field.alias or name for model in _models(here) for name, field in model.model_fields.items()}


def _step(model: type[BaseModel], part: int | str) -> Iterator[object]:
    for name, field in model.model_fields.items():
        if part in (name, field.alias):
            yield field.annotation


def _models(annotations: Sequence[object]) -> Iterator[type[BaseModel]]:
    """Every model inside annotations such as `list[A | B] | None`."""
    for annotation in annotations:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield annotation
        elif get_origin(annotation) in (Union, types.UnionType, Annotated, list, tuple, dict):
            yield from _models(get_args(annotation))


def _dotted(key: Key) -> str:
    """("camera", 0, "fps") -> camera[0].fps"""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return _one_line(text, 120)


def _one_line(text: str, limit: int = 1000) -> str:
    return shortened("".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text), limit)


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters; the middle is left out, since of a path the end says most."""
    tail = limit // 2 - 2
    return text if len(text) <= limit else text[: limit - 3 - tail] + "..." + text[-tail:]
