"""Which node is our camera, also after it was unplugged and came back under another number.

1. The first time the configured path is taken as it is; its card, bus and udev names are remembered.
2. Later only the same camera is taken: same card on the same bus, under the configured path, its udev names or any
   other number.
3. Two exceptions, both with a note for the log: another card on the same port (a replaced camera), and the same
   card on another port while it was and is the only camera on this machine (a moved plug). With two cameras of one
   kind a moved plug is not guessed: the message says what is where.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

from linuxpy.video import raw

from edge_inspect.capture.v4l2_node import Identity, Node, can_stream, nodes, stable_names
from edge_inspect.errors import BadSource, CameraLost


class Finder:
    """Opens the camera at `path`, and afterwards that same camera wherever it is."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._known: Identity | None = None
        self._names: list[str] = []
        self._alone = False
        self._fourcc = ""

    @property
    def was_there(self) -> bool:
        return self._known is not None

    def remember(self, fourcc: str) -> None:
        """The camera works with this pixel format: of several nodes of one camera it tells ours."""
        self._fourcc = fourcc

    def find(self) -> tuple[Node, list[str]]:
        """(our camera, opened; notes for the log). Raises OSError, CameraLost, BadSource; leaves nothing open then."""
        known = self._known
        if known is None:
            return self._first(), []
        for path in (self._path, *self._names, *self._others()):
            node = self._open_if(path, known.is_same_camera)
            if node is not None:
                return node, []
        return self._stand_in(known)

    def _first(self) -> Node:
        others = any(found.captures for found in nodes(without=self._path))
        node = Node(self._path)
        try:
            identity, able = node.capability()
            if able & raw.Capability.VIDEO_CAPTURE_MPLANE:
                raise BadSource(f"{self._path}: {identity} is a multi-planar device; use a gst: source for it")
            if not can_stream(able):
                raise BadSource(f"{self._path}: {identity} does not stream pictures (a metadata or output node?)")
        except BaseException:
            node.close()
            raise
        self._known, self._names, self._alone = identity, stable_names(self._path), not others
        return node

    def _others(self) -> Iterator[str]:
        return (found.path for found in nodes(without=self._path) if found.captures)

    def _open_if(self, path: str, is_wanted: Callable[[Identity], bool]) -> Node | None:
        """The node at `path`, opened, if a wanted camera streams in our format there. Raises OSError when busy."""
        try:
            node = Node(path)
        except OSError as err:
            if err.errno == errno.EBUSY and path == self._path:
                raise
            return None
        try:
            identity, able = node.capability()
            formats = node.pixel_formats()
        except OSError:
            node.close()
            return None
        if can_stream(able) and is_wanted(identity) and (not formats or self._fourcc in ("", *formats)):
            return node
        node.close()
        return None

    def _stand_in(self, known: Identity) -> tuple[Node, list[str]]:
        """The two exceptions of the module's third promise."""
        replaced = self._open_if(self._path, lambda found: known.bus_info in ("", found.bus_info))
        if replaced is not None:
            return self._adopt(replaced, f"another camera on the same port: it was {known}")
        cameras = [found for found in nodes() if found.captures]
        if self._alone and len(cameras) == 1:
            moved = self._open_if(cameras[0].path, lambda found: found.card == known.card)
            if moved is not None:
                return self._adopt(moved, f"the camera moved to another port: it was {known}")
        listed = ", ".join(f"{camera.path} ({camera.identity})" for camera in cameras) or "none"
        raise CameraLost(f"{self._path}: waiting for {known}; cameras found: {listed}")

    def _adopt(self, node: Node, note: str) -> tuple[Node, list[str]]:
        try:
            self._known, _ = node.capability()
        except BaseException:
            node.close()
            raise
        return node, [note]
