"""Signing keys: ed25519 in files, or on a PKCS#11 token.

1. A private key file is made with mode 0600, never over another file, and is encrypted when a passphrase is given. Its
   public half lies beside it as `.pub`, for those who only have to name it. Both are there and durable, or neither.
2. A key is its public half: the key id follows from it, so a file, a copy of it and the token all are the same key.
3. Nothing here prints or returns a passphrase or a PIN.

    signer = open_signer("keys/root-1.pem", passphrase)
    public = read_public("keys/root-2.pub")
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, Key, Signer, SSlibKey

from cloud_inspect.errors import BadKey
from cloud_inspect.release.layout import KEY_NAME
from cloud_inspect.release.store import make_folder, sync_folder, world
from cloud_inspect.release.tokens import is_token, name_on_token, open_token

MOST_KEY_BYTES = 64 * 1024


def make_key(path: Path, passphrase: bytes | None = None) -> SSlibKey:
    """Write a new private key and, beside it, `.pub`. Raises BadKey (`key-exists`), StoreGone."""
    private = Ed25519PrivateKey.generate()
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    refuse_existing(path)
    _make_folder(path.parent)
    _write_new(path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), 0o600)
    try:
        _write_new(path.with_suffix(".pub"), public, 0o644)
    except BaseException:
        path.unlink()  # nobody has this key yet
        raise
    with world(path):
        sync_folder(path.parent)
    return _named(SSlibKey.from_crypto(private.public_key()), path.stem)


def refuse_existing(path: Path, option: str = "") -> None:
    """The key's file, or its public half. `option`: with what it can be used as it is. Raises BadKey (`key-exists`)."""
    for one in (path, path.with_suffix(".pub")):
        if os.path.lexists(one):
            cure = f"; to use it: {option}{path}" if option and path.exists() else ""
            raise BadKey("key-exists", f"{one}: is there already; a key is never written over{cure}")


@contextmanager
def kept_if_used(files: Sequence[Path], is_used: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Keys made inside are removed again when what they are for fails: nobody has them yet, and it may be repeated.

    `is_used`: asked then; something signed names them already, so they stay.
    """
    made = [half for one in files for half in (one, one.with_suffix(".pub")) if not os.path.lexists(half)]
    folders = sorted({one for file in made for one in _missing_folders(file.parent)}, reverse=True)
    try:
        yield
    except BaseException:
        if not is_used():
            for one in made:
                with suppress(OSError):
                    one.unlink()
            for one in folders:
                with suppress(OSError):
                    one.rmdir()
        raise


def read_public(reference: str, passphrase: bytes | None = None) -> SSlibKey:
    """The public half of a `.pub` file, a private key file or a `pkcs11:` URI. Raises BadKey."""
    if is_token(reference) or not reference.endswith(".pub"):
        return _named(_public(open_signer(reference, passphrase)), _stem(reference))
    content = _read(Path(reference))
    try:
        return _named(SSlibKey.from_crypto(load_pem_public_key(content)), _stem(reference))
    except (ValueError, UnsupportedAlgorithm) as err:
        raise BadKey("key-unreadable", f"{reference}: is no public key in PEM") from err


def open_signer(reference: str, passphrase: bytes | None = None) -> Signer:
    """A private key file, or a `pkcs11:` URI whose PIN is the passphrase.

    Raises BadKey: `key-missing`, `passphrase-missing`, `wrong-passphrase`, `key-unreadable`, `pkcs11-...`.
    """
    if is_token(reference):
        return open_token(reference, passphrase)
    content = _read(Path(reference))
    encrypted = b"ENCRYPTED" in content
    if encrypted and not passphrase:
        raise BadKey("passphrase-missing", f"{reference}: is encrypted; give --passphrase-file")
    try:
        signer = CryptoSigner(load_pem_private_key(content, passphrase if encrypted else None))
    except (ValueError, TypeError, UnsupportedAlgorithm) as err:
        if encrypted:
            raise BadKey("wrong-passphrase", f"{reference}: the passphrase does not open it") from err
        raise BadKey("key-unreadable", f"{reference}: is no private key in PEM (ed25519, ECDSA or RSA)") from err
    _named(_public(signer), reference)  # so that what is said of it names its file
    return signer


def open_signers(references: Iterable[str], passphrase: bytes | None = None) -> list[Signer]:
    """The same for several; a folder stands for every `.pem` in it."""
    return [open_signer(one, passphrase) for reference in references for one in _each(reference)]


def fitting(references: Iterable[str], wanted: Mapping[str, Key], passphrase: bytes | None = None) -> list[str]:
    """Files and URIs as they are; instead of a folder those keys in it that are `wanted` (by key id).

    Raises BadKey (`key-not-of-role`) for a folder with none of them.
    """
    found: list[str] = []
    for reference in references:
        each = _each(reference)
        chosen = each if each == [reference] else [one for one in each if _keyid(one, passphrase) in wanted]
        if not chosen:
            names = ", ".join(sorted(name_of(key) for key in wanted.values()))
            raise BadKey("key-not-of-role", f"{reference}: none of the keys in this folder signs here; wanted: {names}")
        found += chosen
    return found


def _keyid(file: str, passphrase: bytes | None) -> str:
    """By the public half beside it, which needs no passphrase."""
    beside = str(Path(file).with_suffix(".pub"))
    return read_public(beside if is_file(beside) else file, passphrase).keyid


def is_folder(reference: str) -> bool:
    return not is_token(reference) and os.path.isdir(reference)  # noqa: PTH112 - a Path raises where we may not look


def is_file(reference: str) -> bool:
    return not is_token(reference) and os.path.isfile(reference)  # noqa: PTH113 - the same


def exposed(references: Iterable[str]) -> list[str]:
    """Those private key files that more people than their owner may read or change; a `.pub` is no secret."""
    files = [one for reference in references for one in _each(reference)]
    private = [one for one in files if not is_token(one) and not one.endswith(".pub")]
    return [one for one in private if is_file(one) and stat.S_IMODE(Path(one).stat().st_mode) & 0o077]


def _each(reference: str) -> list[str]:
    if not is_folder(reference):
        return [reference]
    found = sorted(str(one) for one in Path(reference).glob("*.pem"))
    if not found:
        raise BadKey("key-missing", f"{reference}: no key (.pem) in this folder")
    return found


def read_passphrase(path: Path | None) -> bytes | None:
    """The first line of the file."""
    if path is None:
        return None
    line = (_read(path).splitlines() or [b""])[0]
    if not line:
        raise BadKey("passphrase-missing", f"{path}: is empty; allowed: one line")
    return line


def name_of(key: Key) -> str:
    """What people call it, else the beginning of its id."""
    name = key.unrecognized_fields.get(KEY_NAME)
    short = key.keyid[:12]
    return f"{name} ({short})" if isinstance(name, str) and name else short


def _named(key: SSlibKey, name: str) -> SSlibKey:
    key.unrecognized_fields[KEY_NAME] = name
    return key


def _public(signer: Signer) -> SSlibKey:
    key = signer.public_key
    assert isinstance(key, SSlibKey)
    return key


def _stem(reference: str) -> str:
    return name_on_token(reference) if is_token(reference) else Path(reference).stem


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_KEY_BYTES)
    except FileNotFoundError as err:
        raise BadKey("key-missing", f"{path}: no such file") from err
    except OSError as err:
        raise BadKey("key-unreadable", f"{path}: {err.strerror}") from err


def _make_folder(folder: Path) -> None:
    new = _missing_folders(folder)
    make_folder(folder, 0o700)
    for one in new:
        with world(one):
            sync_folder(one.parent)


def _missing_folders(folder: Path) -> list[Path]:
    """The innermost first."""
    return [one for one in (folder, *folder.parents) if not os.path.lexists(one)]


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """The whole file or none. Raises StoreGone."""
    with world(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            path.unlink()
            raise
