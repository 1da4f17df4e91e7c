"""From what a person writes after `--camera` or `source =` to a camera.

    /dev/video0, 0          V4L2 device
    rtsp://, rtsps://       network camera
    sim, sim:seed=3         simulated line
    gst:PIPELINE            GStreamer pipeline that ends in an appsink
    FOLDER                  pictures in the order of their names
    FILE                    recording (mp4, avi, mkv, gif ...) or one picture (jpg, png, bmp ...)

Nothing is opened here, and device paths are not even looked at: `Camera.open` does that, again after every loss.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edge_inspect.capture.protocol import Camera
from edge_inspect.errors import BadSource, BadSourceOption

ALLOWED = (
    "/dev/video0 or a number (V4L2), rtsp://HOST/PATH, sim or sim:seed=3, gst:PIPELINE, a folder of pictures, "
    "a recording or picture file"
)

# Also names that udev rules give, such as /dev/line-camera; but /dev/shm/clip.mp4 is a file.
_DEVICE = re.compile(r"/dev/([^/]+|v4l/.+)")


def camera_from(source: str, **options: Any) -> Camera:
    """A camera for `source`, not yet opened. Options that are None count as not given.

    Raises BadSource: nothing that we know, or an option that this kind of source does not have.
    """
    given = {name: value for name, value in options.items() if value is not None}
    text = source.strip()
    if not text or "\0" in text:
        raise BadSource(f"source {source!r}: empty; allowed: {ALLOWED}")
    if text.isdecimal() or _DEVICE.fullmatch(text):
        from edge_inspect.capture.v4l2 import V4L2Camera

        return _build(text, V4L2Camera, text, given)
    if text == "sim" or text.startswith("sim:"):
        from edge_inspect.capture.sim import SimCamera

        return _build_named(text, SimCamera, {**_options_in(text), **given})
    scheme, colon, rest = text.partition(":")
    if scheme == "gst" and colon:
        from edge_inspect.capture.gstreamer import GStreamerCamera

        return _build(text, GStreamerCamera, rest.strip(), given)
    if "://" in text:
        return _from_url(text, given)
    return _from_path(text, given)


def _from_url(text: str, options: Mapping[str, Any]) -> Camera:
    scheme = text.partition("://")[0].lower()
    if scheme in ("rtsp", "rtsps"):
        from edge_inspect.capture.rtsp import RtspCamera

        return _build("rtsp", RtspCamera, text, options)
    if scheme == "file":
        return _from_path(text[len("file://") :], options)
    raise BadSourceOption(f"source {scheme}://...: unknown scheme; allowed: {ALLOWED}")


def _from_path(text: str, options: Mapping[str, Any]) -> Camera:
    from edge_inspect.capture.images import KINDS, ImageFolder
    from edge_inspect.capture.video import VideoFile

    path = Path(text).expanduser()
    try:
        is_folder = path.is_dir()
        there = is_folder or path.is_symlink() or path.exists()
    except PermissionError as err:
        raise BadSource(f"{path}: no permission to look at it") from err
    except OSError as err:
        raise BadSource(f"source {text[:80]!r}: {err.strerror}; allowed: {ALLOWED}") from err
    if not there:
        raise BadSource(f"{path}: no such file, folder or camera; allowed: {ALLOWED}")
    are_pictures = is_folder or path.suffix.lower() in KINDS
    return _build(text, ImageFolder if are_pictures else VideoFile, path, options)


def _build(source: str, kind: Callable[..., Camera], place: str | Path, options: Mapping[str, Any]) -> Camera:
    _check_options(source, kind, options)
    return kind(place, **options)


def _build_named(source: str, kind: Callable[..., Camera], options: Mapping[str, Any]) -> Camera:
    _check_options(source, kind, options)
    return kind(**options)


def _check_options(source: str, kind: Callable[..., Camera], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(kind).parameters.values()
    known = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise BadSourceOption(
                f"source {source}: unknown option {name}{hint}; allowed: {', '.join(known) or 'none'}"
            )


def _options_in(text: str) -> dict[str, Any]:
    """`sim:seed=3,ng_share=0.1` -> {"seed": 3, "ng_share": 0.1}."""
    found: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.partition(":")[2].split(","))):
        name, equals, value = item.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise BadSourceOption(f"source {text}: {item!r} is not name=value")
        found[name.strip()] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    """A number, true/false, a tuple of words joined by `+`, or the word itself."""
    if text in ("true", "false"):
        return text == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return tuple(text.split("+")) if "+" in text else text
