"""Which node is our camera, also after it was unplugged and came back under another number.

1. The first time the configured path is taken as it is; its card, bus and udev names are remembered.
2. Later only the same camera is taken: same card on the same bus, under the configured path, its udev names or any
   other number.
3. Two exceptions, both with a note for the log: another card on the same port (a replaced camera), and the same
   card on another port while it was and is the only camera on this machine (a moved plug). With two cameras of one
   kind a moved plug is not guessed: the message says what is where.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge_inspect.capture.v4l2_node import Found, Identity, Node, can_stream, nodes, stable_names
from edge_inspect.errors import BadSource, CameraLost


class Finder:
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
        for path, identity in self._candidates():
            if identity.is_same_camera(known):
                return Node(path), []
        return self._stand_in(known)

    def _first(self) -> Node:
        node = Node(self._path)
        try:
            identity, able = node.capability()
            if not can_stream(able):
                raise BadSource(f"{self._path}: {identity} does not stream pictures (a metadata or output node?)")
            others = {found.identity.bus_info for found in nodes() if found.captures} - {identity.bus_info}
            self._known, self._names, self._alone = identity, stable_names(self._path), not others
        except BaseException:
            node.close()
            raise
        return node

    def _candidates(self) -> Iterator[tuple[str, Identity]]:
        for path in (self._path, *self._names):
            if (identity := self._ask(path)) is not None:
                yield path, identity
        for found in nodes():
            if found.captures and self._ask(found.path) is not None:
                yield found.path, found.identity

    def _ask(self, path: str) -> Identity | None:
        """Who streams pictures in our format there; None: nobody."""
        try:
            node = Node(path)
        except OSError:
            return None
        try:
            identity, able = node.capability()
            formats = node.pixel_formats()
        except OSError:
            return None
        finally:
            node.close()
        return identity if can_stream(able) and (not formats or self._fourcc in ("", *formats)) else None

    def _stand_in(self, known: Identity) -> tuple[Node, list[str]]:
        """The two exceptions of the module's third promise."""
        there = self._ask(self._path)
        if there is not None and known.bus_info in ("", there.bus_info):
            self._known = there
            return Node(self._path), [f"another camera on the same port: {there} instead of {known}"]
        cameras = [found for found in nodes() if found.captures]
        if self._alone and len(cameras) == 1 and cameras[0].identity.card == known.card:
            return self._moved(cameras[0], known)
        found = ", ".join(f"{camera.path} ({camera.identity})" for camera in cameras) or "none"
        raise CameraLost(f"{self._path}: waiting for {known}; cameras found: {found}")

    def _moved(self, camera: Found, known: Identity) -> tuple[Node, list[str]]:
        node = Node(camera.path)
        self._known = camera.identity
        return node, [f"the camera moved: {camera.identity}, it was on {known.bus_info}"]
