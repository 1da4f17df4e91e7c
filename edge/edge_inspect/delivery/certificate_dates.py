"""From when to when a certificate of our own is valid, read from its PEM file without any library beyond `ssl`.

Only good for telling a person what is wrong: whether a certificate is trusted is decided by TLS alone.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Dates:
    begins: datetime
    ends: datetime


def dates_of(path: Path) -> Dates | None:
    """Of the first certificate in the file; None if there is none that can be read."""
    try:
        text = path.read_text(encoding="ascii", errors="replace")
        start = text.index(_BEGIN)
        return from_der(ssl.PEM_cert_to_DER_cert(text[start : text.index(_END, start) + len(_END)]))
    except (OSError, ValueError, IndexError):
        return None


def from_der(der: bytes) -> Dates:
    """Certificate -> TBSCertificate -> validity (RFC 5280, 4.1). Raises ValueError, IndexError."""
    _, certificate, _ = _element(der)
    _, rest, _ = _element(certificate)
    fields: list[tuple[int, bytes]] = []
    while rest and len(fields) < 6:
        tag, content, rest = _element(rest)
        fields.append((tag, content))
    if fields[0][0] == _VERSION:
        fields = fields[1:]
    tag, validity = fields[3]  # after serial number, signature algorithm and issuer
    if tag != _SEQUENCE:
        raise ValueError("no validity there")
    begins_tag, begins, rest = _element(validity)
    ends_tag, ends, _ = _element(rest)
    return Dates(_moment(begins_tag, begins), _moment(ends_tag, ends))


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Tag, content and what follows of the first DER element."""
    tag, length, at = data[0], data[1], 2
    if length & 0x80:
        count = length & 0x7F
        length, at = int.from_bytes(data[2 : 2 + count], "big"), 2 + count
    if at + length > len(data):
        raise ValueError("cut off")
    return tag, data[at : at + length], data[at + length :]


def _moment(tag: int, text: bytes) -> datetime:
    digits = text.decode("ascii")
    if tag == _UTC_TIME:  # two digits of the year: 50-99 are 19xx
        digits = ("19" if digits[0] >= "5" else "20") + digits
    elif tag != _GENERALIZED_TIME:
        raise ValueError("not a time")
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)
