"""A repository of models as an attacker or a bad network would serve it: TUF metadata in memory, files over HTTP.

    repository = TufRepository()
    rollout = repository.release(package_dir)             # signs the package and a rollout for it
    with TufServer(repository) as server:
        server.faults["*model.onnx"] = Fault(cut_after=1000)
        ...
    server.sent_of("*model.onnx"), server.requests

1. Each role is signed by what `signers` says and served as it was when `publish` was called: a test changes `roles` and
   publishes, or changes served `files` behind everybody's back.
2. The server answers Range with If-Range the way static servers do, and counts every byte of a body that it sends.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edge_wire.release import Rollout, channel_target, file_target

PRODUCT = "metal-plate"
ROLE = f"product-{PRODUCT}"
TOP = (Root.type, Targets.type, Snapshot.type, Timestamp.type)


def utc_now() -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0)


class TufRepository:
    """roles: metadata being edited. files: what is served, by path below the base URL."""

    def __init__(self, *, now: datetime | None = None, products: tuple[str, ...] = (PRODUCT,)) -> None:
        self.now = now or utc_now()
        self.files: dict[str, bytes] = {}
        self.signers: dict[str, list[Signer]] = {}
        self.metadata_hashes = False
        """Snapshot and timestamp say length and digest of what they list."""
        expires = self.now + timedelta(days=30)
        self.roles: dict[str, Metadata[Any]] = {
            Root.type: Metadata(Root(expires=expires, consistent_snapshot=True)),
            Targets.type: Metadata(Targets(expires=expires)),
            Snapshot.type: Metadata(Snapshot(expires=expires)),
            Timestamp.type: Metadata(Timestamp(expires=expires)),
        }
        for role in TOP:
            self.add_key(role)
        for product in products:
            paths = [f"{product}/*/*", f"{product}/*/*/*", f"{product}/*/*/*/*"]
            self.delegate(Targets.type, f"product-{product}", paths, terminating=True)
        self.publish(Root.type, *(f"product-{product}" for product in products), bump=False)

    @property
    def root(self) -> Root:
        return self.signed(Root.type)

    @property
    def timestamp(self) -> Timestamp:
        return self.signed(Timestamp.type)

    def signed(self, role: str) -> Any:
        return self.roles[role].signed

    @property
    def first_root(self) -> bytes:
        return self.files["metadata/1.root.json"]

    def add_key(self, role: str, delegator: str = Root.type) -> None:
        signer = CryptoSigner.generate_ed25519()
        self.signed(delegator).add_key(signer.public_key, role)
        self.signers.setdefault(role, []).append(signer)

    def rotate(self, role: str, delegator: str = Root.type) -> list[Signer]:
        """New key for a role; the old signers."""
        old = self.signers.pop(role)
        keys = self.signed(delegator).get_delegated_role(role).keyids
        for key in list(keys):
            self.signed(delegator).revoke_key(key, role)
        self.add_key(role, delegator)
        return old

    def delegate(self, delegator: str, role: str, paths: list[str], *, terminating: bool = False) -> None:
        targets = self.signed(delegator)
        if targets.delegations is None:
            targets.delegations = Delegations({}, {})
        targets.delegations.roles[role] = DelegatedRole(role, [], 1, terminating, paths)
        self.roles.setdefault(role, Metadata(Targets(expires=self.now + timedelta(days=30))))
        self.add_key(role, delegator)

    def publish(self, *roles: str, bump: bool = True) -> None:
        """Sign and serve these roles; targets take snapshot along, and that the timestamp."""
        every = list(roles)
        if any(role not in TOP for role in roles) and not bump:
            every.append(Targets.type)
        if any(role not in (Root.type, Snapshot.type, Timestamp.type) for role in every):
            every.append(Snapshot.type)
        if Snapshot.type in every:
            every.append(Timestamp.type)
        for role in dict.fromkeys(every):
            self._publish(role, bump)

    def _publish(self, role: str, bump: bool) -> None:
        signed = self.signed(role)
        if bump:
            signed.version += 1
        name = quote(role, "")
        path = f"metadata/{name}.json" if role == Timestamp.type else f"metadata/{signed.version}.{name}.json"
        self.files[path] = content = self.sign(role)
        hashed = MetaFile.from_data(signed.version, content, ["sha256"]) if self.metadata_hashes else None
        if role == Snapshot.type:
            self.timestamp.snapshot_meta = hashed or MetaFile(signed.version)
        elif role not in TOP or role == Targets.type:
            self.signed(Snapshot.type).meta[f"{role}.json"] = hashed or MetaFile(signed.version)

    def sign(self, role: str) -> bytes:
        """The role as it is now, signed; not served."""
        metadata = self.roles[role]
        metadata.signatures.clear()
        for signer in self.signers[role]:
            metadata.sign(signer, append=True)
        return bytes(metadata.to_bytes())

    def put(self, role: str, name: str, content: bytes) -> str:
        """Sign a target in `role` (published later); where its bytes are served."""
        info = TargetFile.from_data(name, content, ["sha256"])
        self.signed(role).targets[name] = info
        folder, slash, file = name.rpartition("/")
        path = f"targets/{folder}{slash}{info.hashes['sha256']}.{file}"
        self.files[path] = content
        return path

    def release(self, package: Path, sequence: int = 1, *, product: str = PRODUCT, **changes: Any) -> Rollout:
        """Sign all files of a package and a rollout for it; publish. What is no manifest is `tiny 99.0.SEQUENCE`."""
        raw = (package / "manifest.json").read_bytes()
        try:
            manifest = json.loads(raw)
        except ValueError:
            manifest = {"name": "tiny", "version": f"99.0.{sequence}"}
        for file in sorted(path for path in package.rglob("*") if path.is_file()):
            name = file_target(product, manifest["name"], manifest["version"], str(file.relative_to(package)))
            self.put(f"product-{product}", name, file.read_bytes())
        said = {
            "product": product,
            "channel": "stable",
            "sequence": sequence,
            "model": {
                "name": manifest["name"],
                "version": manifest["version"],
                "digest": "sha256:" + hashlib.sha256(raw).hexdigest(),
            },
            "released_by": "A. Tester",
            "released_at": f"{self.now:%Y-%m-%dT%H:%M:%SZ}",
            **changes,
        }
        rollout = Rollout.model_validate_json(json.dumps(said))
        self.put(f"product-{product}", channel_target(product, "stable"), rollout.model_dump_json().encode())
        self.publish(f"product-{product}")
        return rollout

    def write_to(self, folder: Path) -> None:
        """As files, the way a USB stick has them."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


@dataclass
class Fault:
    """What goes wrong with a file; several may hold at once. Numbers of bytes are counted within one answer's body."""

    times: int = 1 << 30
    """So many answers; then the file is served well."""
    status: int = 0
    cut_after: int | None = None
    """The connection breaks after so many bytes."""
    stall_after: int | None = None
    """Nothing comes any more, and the connection stays (half-open)."""
    bytes_per_s: int = 0
    ignore_range: bool = False
    """Always 200 and all of it."""
    shift: int = 0
    """Content-Range and body begin so many bytes later than asked."""
    lie_range: bool = False
    """Content-Range says what was asked, the body begins at 0."""
    wrong_total: int = 0
    more: bytes = b""
    """Behind the end of the file, and counted in Content-Length."""
    less: int = 0
    """So many bytes are missing at the end, and not counted in Content-Length."""
    flip_bit: int | None = None
    endless: bool = False
    """No Content-Length; it never ends."""
    chunked: bool = False
    gzip: bool = False
    other: bytes | None = None
    """Another content under this name."""
    no_etag: bool = False
    redirect: str = ""
    drip_head: bool = False
    """The head of the answer comes letter by letter, and never ends."""


@dataclass
class Request:
    path: str
    range: str
    if_range: str


class TufServer:
    """Serves `repository.files` on a port of its own; `faults` by pattern of the path."""

    def __init__(self, repository: TufRepository, *, tls: ssl.SSLContext | None = None) -> None:
        self.repository = repository
        self.faults: dict[str, Fault] = {}
        self.requests: list[Request] = []
        self.sent: dict[str, int] = {}
        """Bytes of bodies by path."""
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.block_on_close = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="tuf-server")
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_address[1]}"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)

    def __enter__(self) -> TufServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.daemon_threads = False
        self._server.server_close()

    def fault_of(self, path: str) -> Fault:
        for pattern, fault in self.faults.items():
            if fnmatchcase(path, pattern) and fault.times > 0:
                fault.times -= 1
                return fault
        return Fault()

    def asked(self, pattern: str) -> list[Request]:
        return [request for request in self.requests if fnmatchcase(request.path, pattern)]

    def sent_of(self, pattern: str) -> int:
        return sum(count for path, count in self.sent.items() if fnmatchcase(path, pattern))


def _handler(server: TufServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            headers = self.headers
            server.requests.append(Request(path, headers.get("Range", ""), headers.get("If-Range", "")))
            with contextlib.suppress(OSError):
                _Answering(server, self, path).answer()
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    return Handler


@dataclass
class _Answering:
    """One answer, with what is wrong with it."""

    server: TufServer
    handler: BaseHTTPRequestHandler
    path: str
    fault: Fault = field(init=False)

    def answer(self) -> None:
        self.fault = fault = self.server.fault_of(self.path)
        if fault.drip_head:
            self._drip_head()
        content = self.server.repository.files.get(self.path) if fault.other is None else fault.other
        if fault.redirect:
            self._head(302, {"Location": fault.redirect, "Content-Length": "0"})
        elif fault.status or content is None:
            self._head(fault.status or 404, {"Content-Length": "0"})
        else:
            self._serve(self._spoiled(content))

    def _spoiled(self, content: bytes) -> bytes:
        fault = self.fault
        if fault.flip_bit is not None:
            at = fault.flip_bit % (8 * len(content))
            content = content[: at // 8] + bytes([content[at // 8] ^ 1 << at % 8]) + content[at // 8 + 1 :]
        content = content[: len(content) - fault.less] + fault.more
        return gzip.compress(content) if fault.gzip else content

    def _serve(self, content: bytes) -> None:
        fault, asked = self.fault, self.server.requests[-1]
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        request = self.handler.headers
        headers = {} if fault.no_etag else {"ETag": etag}
        if fault.gzip:
            headers["Content-Encoding"] = "gzip"
        start = int(request["Range"].removeprefix("bytes=").partition("-")[0]) if "Range" in request else 0
        same = request.get("If-Range", etag) == etag
        if not asked.range or fault.ignore_range or not same or "Range" not in request:
            self._send(200, headers, content)
            return
        if start >= len(content):
            self._head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
            return
        begin = min(start + fault.shift, len(content) - 1)
        total = len(content) + fault.wrong_total
        headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{total}"
        self._send(206, headers, content[: len(content) - begin] if fault.lie_range else content[begin:])

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        fault = self.fault
        length = {} if fault.endless or fault.chunked else {"Content-Length": str(len(body))}
        chunked = {"Transfer-Encoding": "chunked"} if fault.chunked else {}
        self._head(status, {**headers, **length, **chunked})
        for piece in _pieces(body, fault):
            if self.server.closing.is_set():
                return
            self.handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if fault.chunked else piece)
            self.handler.wfile.flush()
            self.server.sent[self.path] = self.server.sent.get(self.path, 0) + len(piece)
            if fault.bytes_per_s:
                time.sleep(len(piece) / fault.bytes_per_s)
        if fault.stall_after is not None:
            self.server.closing.wait()
        if fault.cut_after is not None:
            self._cut()
        if fault.chunked:
            self.handler.wfile.write(b"0\r\n\r\n")

    def _cut(self) -> None:
        self.handler.wfile.flush()
        with contextlib.suppress(OSError):
            self.handler.connection.shutdown(socket.SHUT_RDWR)

    def _drip_head(self) -> None:
        self.handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not self.server.closing.wait(0.02):
            self.handler.wfile.write(b"X")
            self.handler.wfile.flush()

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.handler.send_response(status)
        for name, value in headers.items():
            self.handler.send_header(name, value)
        self.handler.send_header("Connection", "close")
        self.handler.end_headers()


def _pieces(body: bytes, fault: Fault) -> Iterator[bytes]:
    most = min(end for end in (fault.cut_after, fault.stall_after, len(body)) if end is not None)
    size = max(1, fault.bytes_per_s // 20) if fault.bytes_per_s else 1 << 14
    for at in range(0, most, size):
        yield body[at : min(at + size, most)]
    while fault.endless:
        yield b"\0" * size
