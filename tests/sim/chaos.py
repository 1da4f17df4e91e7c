"""A TCP proxy on 127.0.0.1 that behaves like a bad network: for tests of cameras, brokers and downloads.

1. Bytes are passed on in order and unchanged, unless a fault below says otherwise.
2. Faults are set at any time from the test's thread and act on open and on new connections alike.
3. `stop()` (or leaving the `with` block) closes every socket and ends the one thread.

    with ChaosProxy(broker_port) as net:
        connect("127.0.0.1", net.port)
        net.stall()      # nothing passes, nothing is closed: a black hole
        net.flow()       # what was held back now arrives late
        net.reset()      # RST on every open connection
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Literal, Protocol

CHUNK_BYTES = 16 * 1024
HELD_CHUNKS = 1024
"""Per direction: what the proxy holds back before the sender feels it."""

Filter = Callable[[bytes], bytes]
"""Gets each chunk that the target sends and returns what goes on instead; may keep bytes back for the next call."""


class Watch(Protocol):
    """Sees what goes on, of one connection: `down` from the target, `up` to it."""

    def down(self, data: bytes) -> None: ...
    def up(self, data: bytes) -> None: ...


class ChaosProxy:
    """Connections to `port` are passed on to `target_host:target_port`, with the faults set by then.

    `new_filter` makes one Filter for each connection, for faults that understand the protocol; `new_watch` one Watch.
    """

    def __init__(
        self,
        target_port: int,
        target_host: str = "127.0.0.1",
        *,
        new_filter: Callable[[], Filter] | None = None,
        new_watch: Callable[[], Watch] | None = None,
        narrow: bool = False,
    ) -> None:
        """`narrow`: hold hardly anything, so that who sends to us feels `up_rate_bytes_s` at once."""
        self._target = (target_host, target_port)
        self._new_filter = new_filter
        self._new_watch = new_watch
        self.delay_s = 0.0
        """Every byte arrives this much later, in both directions."""
        self.rate_bytes_s: float | None = None
        """What the target sends passes at most this fast; None: as fast as it comes."""
        self.up_rate_bytes_s: float | None = None
        """What is sent to the target passes at most this fast."""
        self._narrow = narrow
        self.cut_after_bytes: int | None = None
        """A connection is closed after so many bytes from the target."""
        self.connections = 0
        """How many connections were accepted so far."""
        self._drop_bytes = 0
        self._flip_every = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._ways = {"up": asyncio.Event(), "down": asyncio.Event()}
        for way in self._ways.values():
            way.set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-proxy")

    def __enter__(self) -> ChaosProxy:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stall(self) -> None:
        """Nothing passes any more, nothing is closed; new connections are accepted and get silence."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def stall_one_way(self, way: Literal["up", "down"]) -> None:
        """Nothing passes to ("up") or from ("down") the target any more; the other way works, nothing is closed."""
        self._loop.call_soon_threadsafe(self._ways[way].clear)

    def flow(self) -> None:
        """What was held back by `stall` or `stall_one_way` goes on, late."""
        for held in (self._flowing, *self._ways.values()):
            self._loop.call_soon_threadsafe(held.set)

    def drop(self, count: int) -> None:
        """The next `count` bytes from the target vanish."""
        self._loop.call_soon_threadsafe(self._set_drop, count)

    def flip(self, every: int) -> None:
        """One bit in each `every` bytes from the target is flipped; 0: none."""
        self._flip_every = every

    def cut(self) -> None:
        """Close every open connection (FIN)."""
        self._do(self._close_all(reset=False))

    def reset(self) -> None:
        """Reset every open connection (RST)."""
        self._do(self._close_all(reset=True))

    def refuse(self) -> None:
        """New connections are refused; open ones are reset."""
        self._do(self._stop_listening())
        self.reset()

    def accept(self) -> None:
        """Listen again on the same port after `refuse`."""
        self._do(self._listen())

    def stop(self) -> None:
        if not self._thread.is_alive():
            return
        self._do(self._stop_listening())
        self._do(self._close_all(reset=False))
        self._do(self._settle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    def _set_drop(self, count: int) -> None:
        self._drop_bytes = count

    async def _listen(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        if self._narrow:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._server = await asyncio.start_server(self._accept, sock=listener, limit=1024 if self._narrow else 2**16)
        self.port = listener.getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _close_all(self, *, reset: bool) -> None:
        for writer in list(self._writers):
            if reset:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @staticmethod
    async def _settle() -> None:
        """What was closed is told so by the loop's next rounds; one that ended before would be found unclosed later."""
        for _ in range(5):
            await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._join(reader, writer)
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        self._writers.add(far_writer)
        watch = self._new_watch() if self._new_watch is not None else None
        see_up, see_down = (watch.up, watch.down) if watch is not None else (None, None)
        pump_up = self._trickle(reader, far_writer) if self._narrow else self._pump(reader, far_writer, None, see_up)
        up = asyncio.ensure_future(pump_up)
        down = asyncio.ensure_future(self._pump(far_reader, writer, self._spoil(), see_down))
        try:
            await asyncio.wait((up, down), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._writers.discard(far_writer)
            for task in (up, down):
                task.cancel()
            far_writer.close()  # before anything is waited for: whoever waits may be cancelled once more
            await asyncio.gather(up, down, return_exceptions=True)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        spoil: Filter | None,
        see: Callable[[bytes], None] | None,
    ) -> None:
        """Read ahead into a queue, so that a delay holds bytes back without slowing them down."""
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(HELD_CHUNKS)
        reading = asyncio.ensure_future(self._read_ahead(reader, held))
        try:
            while True:
                due, data = await held.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                await self._flowing.wait()
                await self._ways["up" if spoil is None else "down"].wait()
                if not data:
                    return
                if spoil is None and self.up_rate_bytes_s is not None:
                    await asyncio.sleep(len(data) / self.up_rate_bytes_s)
                if spoil is not None:
                    if self.rate_bytes_s is not None:
                        await asyncio.sleep(len(data) / self.rate_bytes_s)
                    data = spoil(data)
                if see is not None:
                    see(data)
                writer.write(data)
                await writer.drain()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _trickle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take no more than can go on at once."""
        while data := await reader.read(256):
            await self._flowing.wait()
            await self._ways["up"].wait()
            if self.up_rate_bytes_s is not None:
                await asyncio.sleep(len(data) / self.up_rate_bytes_s)
            writer.write(data)
            await writer.drain()

    async def _read_ahead(self, reader: asyncio.StreamReader, held: asyncio.Queue[tuple[float, bytes]]) -> None:
        data = b" "
        while data:
            data = b""
            with contextlib.suppress(OSError):
                data = await reader.read(CHUNK_BYTES if self.rate_bytes_s is None else 512)
            await held.put((self._loop.time() + self.delay_s, data))

    def _spoil(self) -> Filter:
        """The faults on what the target sends, for one connection."""
        passed = 0
        own = self._new_filter() if self._new_filter is not None else bytes

        def spoil(data: bytes) -> bytes:
            nonlocal passed
            dropped = min(self._drop_bytes, len(data))
            self._drop_bytes -= dropped
            data = own(data[dropped:])
            if self._flip_every:
                changed = bytearray(data)
                for at in range(-passed % self._flip_every, len(changed), self._flip_every):
                    changed[at] ^= 0x10
                data = bytes(changed)
            passed += len(data)
            if self.cut_after_bytes is not None and passed > self.cut_after_bytes:
                raise ConnectionAbortedError("cut by the test")
            return data

        return spoil
