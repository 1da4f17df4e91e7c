"""A GPIO chip that is not there: this process plays it, a program with the preloaded shim opens it as /dev/gpiochip0.

1. What the program sees is the kernel's GPIO v2 interface, through gpiod's own C code; see gpio_shim.c.
2. The chip outlives the program: a request ends when its file is closed, by whatever means.
3. Levels are physical, high is True; `active_low` is applied here as the kernel would. Edges carry the time stamps that
   the test gives them, so debouncing is exact and needs no waiting.

    with GpioChip(tmp_path) as chip:
        subprocess.Popen([sys.executable, ...], env=chip.environment())
        chip.wait_for(lambda: 5 in chip.driven)
        chip.edges(4, [(0, True), (150, False)])
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from shutil import which
from tempfile import gettempdir

import pytest

SOURCE = Path(__file__).with_name("gpio_shim.c")
WAIT_S = 90.0

USED, ACTIVE_LOW, OUTPUT, RISING, FALLING = 1 << 0, 1 << 1, 1 << 3, 1 << 4, 1 << 5
FLAGS, OUTPUT_VALUES, DEBOUNCE = 1, 2, 3
GET_CHIPINFO, GET_LINEINFO, GET_LINE, SET_CONFIG, GET_VALUES, SET_VALUES = 0x01, 0x05, 0x07, 0x0D, 0x0E, 0x0F
EVENT = struct.Struct("<QIIII24x")
CONFIG = struct.Struct("<QI20x240s")
ATTRIBUTE = struct.Struct("<IIQQ")
REQUEST = struct.Struct("<256s32s272sII20xi")


@cache
def library() -> Path:
    """The built shim; built once for each state of its source."""
    built = Path(gettempdir()) / f"gpio_shim-{os.getuid()}-{SOURCE.stat().st_mtime_ns}.so"
    if not built.exists():
        if which("gcc") is None and not os.environ.get("CI"):
            pytest.skip("gcc is needed to build the GPIO shim")
        part = built.with_suffix(f".{os.getpid()}")
        command = ["gcc", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(part), str(SOURCE)]
        subprocess.run([*command, "-lpthread"], check=True)
        part.rename(built)
    return built


@dataclass
class Wire:
    """One line of a request."""

    offset: int
    flags: int = 0
    debounce_us: int = 0
    events: int = 0

    @property
    def is_output(self) -> bool:
        return bool(self.flags & OUTPUT)

    @property
    def is_inverted(self) -> bool:
        return bool(self.flags & ACTIVE_LOW)


@dataclass
class Request:
    consumer: str
    wires: list[Wire]
    events: socket.socket | None = None
    sent: int = 0


@dataclass
class Peer:
    """One connection of the shim's."""

    socket: socket.socket
    kind: str = ""
    request: int = 0
    arrived: bytearray = field(default_factory=bytearray)


class GpioChip:
    """Serves the chip in its own thread from `with` on. Read and change it through its methods, from any thread.

    keeps_levels: what some drivers do: a released output stays as it was. Others let go, and the pull decides.
    """

    def __init__(self, folder: Path, *, lines: int = 32, keeps_levels: bool = False) -> None:
        self.path = folder / "chip.sock"
        self.lines = lines
        self.keeps_levels = keeps_levels
        self.pulled = [False] * lines
        """What an input shows when nobody drives it: the pull resistors."""
        self.held: set[int] = set()
        """Lines that somebody else has requested."""
        self.denied = False
        self.driven: dict[int, bool] = {}
        """Outputs that are driven, with their levels."""
        self.log: list[tuple[str, str]] = []
        """("requested", consumer), ("released", consumer), in their order."""
        self.shown: list[tuple[int, bool]] = []
        """(offset, level) of outputs each time they were set, the same level again too."""
        self._outside: dict[int, bool] = {}
        self._requests: dict[int, Request] = {}
        self._changed = threading.Condition(threading.RLock())
        self._listener: socket.socket | None = None
        self._peers: dict[socket.socket, Peer] = {}
        self._selector = selectors.DefaultSelector()
        self._ended = False
        self._thread = threading.Thread(target=self._serve, name="gpio-chip")

    def __enter__(self) -> GpioChip:
        self.plug()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()
        self._ended = True
        self._thread.join(WAIT_S)
        self._selector.close()

    def environment(self) -> dict[str, str]:
        return {**os.environ, "LD_PRELOAD": str(library()), "GPIO_SHIM": str(self.path)}

    # ---- what the test does and sees ----------------------------------------------------------------------------

    def plug(self) -> None:
        with self._changed:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self.path))
            self._listener.listen(16)
            self._listener.setblocking(False)
            self._selector.register(self._listener, selectors.EVENT_READ)

    def unplug(self) -> None:
        """Gone at once, with everything that was requested; open files answer ENODEV."""
        with self._changed:
            if self._listener is not None:
                self.path.unlink()
                self._selector.unregister(self._listener)
                self._listener.close()
                self._listener = None
            for peer in list(self._peers.values()):
                self._hang_up(peer)
            self._requests.clear()  # those that were granted, but not fetched yet

    def level(self, offset: int) -> bool:
        """What a PLC's input would see on that pin."""
        with self._changed:
            return self.driven.get(offset, self._outside.get(offset, self.pulled[offset]))

    def levels(self, offset: int) -> list[bool]:
        """Every level the output has been driven to, in order, repeats left out."""
        with self._changed:
            levels = [level for at, level in self.shown if at == offset]
        return [level for level, _ in groupby(levels)]

    def is_free(self) -> bool:
        """Everything that was requested has been let go again."""
        happened = [what for what, _ in self.log]
        return happened.count("requested") == happened.count("released") > 0

    def wait_for(self, condition: Callable[[], bool], what: str = "") -> None:
        with self._changed:
            assert self._changed.wait_for(condition, WAIT_S), (
                f"{what}: did not happen; {self.log[-20:]} {self.shown[-20:]}"
            )

    def edges(self, offset: int, edges: Sequence[tuple[int, bool]], *, at_ns: int | None = None) -> None:
        """Levels of an input at times (microseconds after `at_ns`), debounced as the kernel does it: a level counts
        once it has stood for the line's debounce period, and its event is stamped with that moment."""
        with self._changed:
            at_ns = time.monotonic_ns() if at_ns is None else at_ns
            for request, index in self._watching(offset):
                wire = request.wires[index]
                level = self.level(offset)
                for number, (us, new) in enumerate(edges):
                    stands = number + 1 == len(edges) or edges[number + 1][0] - us > wire.debounce_us
                    if new != level and stands:
                        level = new
                        self._emit(request, wire, level, at_ns + (us + wire.debounce_us) * 1000)
            self._outside[offset] = edges[-1][1]

    def pulse(self, offset: int, *, at_ns: int | None = None) -> None:
        """High for a second, by its time stamps: longer than any bounce."""
        self.edges(offset, [(0, True), (1_000_000, False)], at_ns=at_ns)

    def lose_events(self, offset: int, count: int) -> None:
        """As when the kernel's buffer of events has overflowed: only their numbers are used up."""
        with self._changed:
            for request, index in self._watching(offset):
                request.wires[index].events += count
                request.sent += count

    # ---- the chip ------------------------------------------------------------------------------------------------

    def _watching(self, offset: int) -> list[tuple[Request, int]]:
        return [
            (request, index)
            for request in self._requests.values()
            for index, wire in enumerate(request.wires)
            if wire.offset == offset and wire.flags & (RISING | FALLING)
        ]

    def _emit(self, request: Request, wire: Wire, level: bool, at_ns: int) -> None:
        rises = level != wire.is_inverted
        if not wire.flags & (RISING if rises else FALLING) or request.events is None:
            return
        request.sent += 1
        wire.events += 1
        request.events.sendall(EVENT.pack(at_ns, 1 if rises else 2, wire.offset, request.sent, wire.events))

    def _serve(self) -> None:
        while not self._ended:
            for key, _ in self._selector.select(0.05):
                with self._changed:
                    connection = key.fileobj
                    if connection is self._listener:
                        self._accept()
                    elif isinstance(connection, socket.socket) and connection in self._peers:
                        self._read(self._peers[connection])
                    self._changed.notify_all()

    def _accept(self) -> None:
        assert self._listener is not None
        connection, _ = self._listener.accept()
        self._peers[connection] = Peer(connection)
        self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, peer: Peer) -> None:
        try:
            arrived = peer.socket.recv(65536)
        except ConnectionResetError:
            arrived = b""
        if not arrived:
            self._hang_up(peer)
            return
        peer.arrived += arrived
        if not peer.kind and len(peer.arrived) >= 5:
            self._greet(peer)
        while peer.kind and len(peer.arrived) >= 8:
            number, size = struct.unpack_from("<II", peer.arrived)
            if len(peer.arrived) < 8 + size:
                break
            argument = bytearray(peer.arrived[8 : 8 + size])
            del peer.arrived[: 8 + size]
            error = self._answer(peer, number & 0xFF, argument)
            peer.socket.sendall(struct.pack("<i", error) + argument)

    def _greet(self, peer: Peer) -> None:
        peer.kind, peer.request = chr(peer.arrived[0]), struct.unpack_from("<I", peer.arrived, 1)[0]
        del peer.arrived[:5]
        if peer.kind == "C":
            peer.socket.sendall(struct.pack("<i", errno.EACCES if self.denied else 0))
        elif peer.kind == "E":
            self._requests[peer.request].events = peer.socket

    def _hang_up(self, peer: Peer) -> None:
        self._selector.unregister(peer.socket)
        del self._peers[peer.socket]
        peer.socket.close()
        if peer.kind == "E" and (request := self._requests.pop(peer.request, None)) is not None:
            for wire in request.wires:
                if not self.keeps_levels:
                    self.driven.pop(wire.offset, None)
            self.log.append(("released", request.consumer))
        self._changed.notify_all()

    def _answer(self, peer: Peer, number: int, argument: bytearray) -> int:
        if number == GET_CHIPINFO:
            struct.pack_into("<32s32sI", argument, 0, b"gpiochip0", b"played", self.lines)
        elif number == GET_LINEINFO:
            self._info(argument)
        elif number == GET_LINE:
            return self._request(argument)
        elif peer.request not in self._requests:
            return errno.ENODEV
        elif number == SET_CONFIG:
            self._configure(self._requests[peer.request], bytes(argument))
        elif number == GET_VALUES:
            self._get(self._requests[peer.request], argument)
        elif number == SET_VALUES:
            self._set(self._requests[peer.request], *struct.unpack("<QQ", argument))
        else:
            return errno.EINVAL
        return 0

    def _info(self, argument: bytearray) -> None:
        """No line has a name; those that are taken say by whom."""
        offset = struct.unpack_from("<I", argument, 64)[0]
        users = {wire.offset: request.consumer for request in self._requests.values() for wire in request.wires}
        users |= dict.fromkeys(self.held, "spi0 CS0")
        argument[32:64] = users.get(offset, "").encode().ljust(32, b"\0")
        struct.pack_into("<Q", argument, 72, USED if offset in users else 0)

    def _request(self, argument: bytearray) -> int:
        offsets, consumer, config, count, _, _ = REQUEST.unpack(argument)
        wanted = struct.unpack_from(f"<{count}I", offsets)
        taken = {wire.offset for request in self._requests.values() for wire in request.wires}
        if any(offset >= self.lines for offset in wanted):
            return errno.EINVAL
        if (taken | self.held) & set(wanted):
            return errno.EBUSY
        which_one = max(self._requests, default=0) + 1
        request = Request(consumer.rstrip(b"\0").decode(), [Wire(offset) for offset in wanted])
        self._requests[which_one] = request
        self.log.append(("requested", request.consumer))
        self._configure(request, config)
        struct.pack_into("<i", argument, REQUEST.size - 4, which_one)
        return 0

    def _configure(self, request: Request, config: bytes) -> None:
        flags, count, attributes = CONFIG.unpack(config)
        values = 0
        for wire in request.wires:
            wire.flags, wire.debounce_us = flags, 0
        for number in range(count):
            kind, _, value, mask = ATTRIBUTE.unpack_from(attributes, number * ATTRIBUTE.size)
            if kind == OUTPUT_VALUES:
                values = value & mask
            for index, wire in enumerate(request.wires):
                if mask >> index & 1 and kind == FLAGS:
                    wire.flags = value
                elif mask >> index & 1 and kind == DEBOUNCE:
                    wire.debounce_us = value & 0xFFFFFFFF
        self._set(request, values, sum(1 << index for index, wire in enumerate(request.wires) if wire.is_output))

    def _get(self, request: Request, argument: bytearray) -> None:
        mask = struct.unpack_from("<Q", argument, 8)[0]
        wires = enumerate(request.wires)
        bits = sum((self.level(wire.offset) != wire.is_inverted) << index for index, wire in wires)
        struct.pack_into("<Q", argument, 0, bits & mask)

    def _set(self, request: Request, bits: int, mask: int) -> None:
        for index, wire in enumerate(request.wires):
            if mask >> index & 1 and wire.is_output:
                level = bool(bits >> index & 1) != wire.is_inverted
                self.driven[wire.offset] = level
                self.shown.append((wire.offset, level))
