"""Keys that never leave their token: PKCS#11 URIs (RFC 7512) onto securesystemslib's HSMSigner, which signs with ECDSA.

    pkcs11:token=releases;id=%01?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin

`id` is the key's number on the token (2 where it is left out: the signature slot of a PIV card). The PIN comes from
`pin-source`, else it is the passphrase; never from the URI, which stands in the shell's history and in process lists.
What is said about a URI names the token and the key and nothing else of it. python-pkcs11 is optional: only who names a
token needs it.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import HSMSigner, Signer

from cloud_inspect.errors import BadKey

SCHEME = "pkcs11:"
NAMING = ("token", "id", "object")
_ATTRIBUTE = re.compile(r"[a-z][a-z-]{0,30}")
MODULE_VARIABLE = "PYKCS11LIB"
"""Where HSMSigner looks for the module; it knows no other way."""


@dataclass(frozen=True)
class Token:
    label: str | None
    number: int
    module: str | None
    pin_file: Path | None


def is_token(reference: str) -> bool:
    return reference[: len(SCHEME)].lower() == SCHEME


def name_on_token(uri: str) -> str:
    """What people may call the key."""
    token = parse(uri)
    return f"{token.label or 'token'}-{token.number}"


def open_token(uri: str, pin: bytes | None) -> Signer:
    """Raises BadKey: `pkcs11-missing`, `pkcs11-uri`, `pkcs11-refuses`, `passphrase-missing`."""
    token = parse(uri)
    if token.module:
        os.environ[MODULE_VARIABLE] = token.module
    elif MODULE_VARIABLE not in os.environ:
        raise BadKey("pkcs11-uri", f"{shown(uri)}: no module-path=, and {MODULE_VARIABLE} is not set")
    secret = _pin(token, pin)

    def tell(_: str) -> str:
        if secret is None:
            raise BadKey("passphrase-missing", f"{shown(uri)}: the token wants a PIN: pin-source= or --passphrase-file")
        return secret

    try:
        found, public = HSMSigner.import_(token.number, token.label, tell)
        return HSMSigner.from_priv_key_uri(found, public, tell)
    except UnsupportedLibraryError as err:
        raise BadKey("pkcs11-missing", f"{shown(uri)}: {err}: pip install 'edge-inspect[pkcs11]'") from err
    except BadKey:
        raise
    except Exception as err:  # whatever the module of the token raises
        raise BadKey("pkcs11-refuses", f"{shown(uri)}: {_words(err)}") from err


def parse(uri: str) -> Token:
    """Raises BadKey (`pkcs11-uri`)."""
    told, asked = _parts(uri)
    if "pin-value" in urllib.parse.unquote(uri).lower():
        raise BadKey(
            "pkcs11-uri", f"{shown(uri)}: pin-value= is not taken, use pin-source=file:... or --passphrase-file"
        )
    unknown = sorted((set(told) - {*NAMING, "type"}) | (set(asked) - {"module-path", "pin-source"}))
    if unknown:
        what = f"{unknown[0]}=" if _ATTRIBUTE.fullmatch(unknown[0]) else "what is not NAME=VALUE"
        raise BadKey("pkcs11-uri", f"{shown(uri)}: unknown {what}; allowed: token, id, module-path, pin-source")
    source = urllib.parse.unquote(asked.get("pin-source", ""))
    return Token(
        label=urllib.parse.unquote(told["token"]) if told.get("token") else None,
        number=int.from_bytes(urllib.parse.unquote_to_bytes(told["id"]), "big") if told.get("id") else 2,
        module=urllib.parse.unquote(asked.get("module-path", "")) or None,
        pin_file=Path(source.removeprefix("file:")) if source else None,
    )


def shown(uri: str) -> str:
    """The URI as people may see it: a mistyped one may hold a PIN anywhere but in the names of token and key."""
    told, _ = _parts(uri)
    return SCHEME + ";".join(f"{name}={told[name]}" for name in NAMING if told.get(name))


def _parts(uri: str) -> tuple[dict[str, str], dict[str, str]]:
    path, _, query = uri[len(SCHEME) :].partition("?")
    told, asked = (
        dict(one.partition("=")[::2] for one in text.split(sign) if one) for text, sign in ((path, ";"), (query, "&"))
    )
    return told, asked


def _pin(token: Token, passphrase: bytes | None) -> str | None:
    if token.pin_file is None:
        return passphrase.decode() if passphrase else None
    try:
        return token.pin_file.read_text().strip()
    except OSError as err:
        raise BadKey("passphrase-missing", f"{token.pin_file}: {err.strerror}") from err


def _words(err: Exception) -> str:
    return (str(err).splitlines() or [""])[0] or type(err).__name__
