"""Where the MQTT broker is, and who we are to it.

1. mqtts means TLS 1.2 or newer with the broker's certificate and name verified. There is no way to switch that off and
   no fallback to plain text; certificates beside a mqtt:// URL are a mistake, not a hint.
2. Certificate, key and password are read from their files at each connection, so renewed ones need no restart;
   `files_now` tells that they have changed.
3. A password never stands in a URL: URLs end up in logs.
"""

from __future__ import annotations

import select
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from edge_inspect.delivery.link_errors import LinkLost
from edge_inspect.errors import BadConfig

PORTS = {"mqtt": 1883, "mqtts": 8883}
REFUSAL_WAIT_S = 0.3
REVOCATION_LIST = b"-----BEGIN X509 CRL-----"
"""In the CA's file: then the broker's certificate must not be on that list."""
ALLOWED = "mqtt://HOST[:PORT] or mqtts://HOST[:PORT]"


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is and who we are to it. Raises BadConfig for settings that contradict each other."""

    url: str
    protocol: Literal[5, 311] = 5
    ca: Path | Literal["system"] | None = None
    cert: Path | None = None
    key: Path | None = None
    username: str | None = None
    password_file: Path | None = None
    keepalive_s: int = 20
    connect_timeout_s: float = 3.0
    host: str = field(init=False)
    port: int = field(init=False)
    tls: bool = field(init=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError as err:
            raise BadConfig(f"broker {self.url!r}: {err}; allowed: {ALLOWED}") from err
        if parts.scheme not in PORTS or not parts.hostname or port == 0 or parts.path not in ("", "/") or parts.query:
            raise BadConfig(f"broker {self.url!r}: allowed: {ALLOWED}")
        if parts.username is not None or parts.password is not None:
            raise BadConfig(
                f"broker {parts.scheme}://...@{parts.hostname}: user name and password do not belong in the URL"
            )
        tls = parts.scheme == "mqtts"
        if not tls and (self.ca or self.cert or self.key):
            raise BadConfig(f"broker {self.url}: certificates are given but mqtt:// is plain text; use mqtts://")
        if (self.cert is None) != (self.key is None):
            raise BadConfig(f"broker {self.url}: a certificate and its key come together")
        object.__setattr__(self, "host", parts.hostname)
        object.__setattr__(self, "port", port or PORTS[parts.scheme])
        object.__setattr__(self, "tls", tls)

    @property
    def where(self) -> str:
        return f"{self.host}:{self.port}"

    def files_now(self) -> tuple[object, ...]:
        """Something that changes whenever one of our files does."""
        found: list[object] = []
        for path in (self.ca, self.cert, self.key, self.password_file):
            if isinstance(path, Path):
                try:
                    status = path.stat()
                    found.append((status.st_mtime_ns, status.st_size, status.st_ino))
                except OSError as err:
                    found.append(err.errno)
        return tuple(found)

    def tls_context(self) -> ssl.SSLContext:
        """Verify chain and name, TLS 1.2 or newer; files are read now, so renewed ones are seen. Raises LinkLost."""
        try:
            trusted = None if self.ca in (None, "system") else str(self.ca)
            context = ssl.create_default_context(cafile=trusted)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if isinstance(self.ca, Path) and REVOCATION_LIST in self.ca.read_bytes():
                context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ValueError) as err:  # ssl.SSLError is an OSError
            files = ", ".join(str(path) for path in (self.ca, self.cert, self.key) if path is not None)
            raise LinkLost("credentials", f"{files}: cannot be used: {getattr(err, 'strerror', None) or err}") from err
        context.sslsocket_class = _TlsSocket
        return context

    def password(self) -> str | None:
        """As it is in its file now. Raises LinkLost."""
        try:
            return None if self.password_file is None else self.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as err:
            raise LinkLost(
                "credentials", f"{self.password_file}: cannot be read: {getattr(err, 'strerror', None) or err}"
            ) from err


class _TlsSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails (paho forgets it then), and hears a refusal that comes right after it."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
            if self.version() == "TLSv1.3":
                self._hear_refusal()
        except BaseException:
            self.close()
            raise

    def _hear_refusal(self) -> None:
        """In TLS 1.3 we are done before the peer has looked at our certificate. Its alert would be lost if we wrote
        first and met a closed connection; a peer that accepts us sends session tickets at this point."""
        ready = select.poll()
        ready.register(self, select.POLLIN)
        if not ready.poll(REFUSAL_WAIT_S * 1000):
            return
        timeout_s = self.gettimeout()
        self.setblocking(False)
        try:
            self.recv(1)
        except ssl.SSLWantReadError:
            pass  # tickets
        finally:
            self.settimeout(timeout_s)
