"""What the `release` commands share: options, how they open a repository and keys, the bar, how a change is shown."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from cloud_inspect.cli.output import emit
from cloud_inspect.errors import BadKey, BadRelease, ReleaseMissing

if TYPE_CHECKING:
    from securesystemslib.signer import Key, Signer

    from cloud_inspect.release.changes import Change
    from cloud_inspect.release.repository import State
    from cloud_inspect.release.signing import Signed
    from cloud_inspect.release.store import Progress, Store

_err = Console(stderr=True)

Url = Annotated[str, typer.Argument(help="The repository: a folder, or any URL of fsspec (s3://...).", metavar="URL")]
Product = Annotated[str, typer.Option("--product", help="Product line: its keys sign its models only.")]
Keys = Annotated[
    list[str],
    typer.Option("--key", help="Key file, folder of key files or pkcs11: URI. May be repeated.", metavar="FILE|URI"),
]
OnlineKeys = Annotated[
    list[str],
    typer.Option(
        "--online-key", help="Snapshot and timestamp keys: file, folder or pkcs11: URI. May be repeated.",
        metavar="FILE|URI",
    ),
]  # fmt: skip
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", help="File whose first line opens the keys (or is the token's PIN).")
]
Staged = Annotated[
    str | None,
    typer.Option("--staged", help="Where changes wait for signatures.", metavar="URL", show_default="URL/staged"),
]
BreakLock = Annotated[
    bool, typer.Option("--break-lock", help="Take the lock of a writer that died (object stores only).")
]


TrustedRoot = Annotated[
    Path | None,
    typer.Option("--root", help="root.json as devices have it. Else the one beside the keys; else the repository's."),
]


def trusted_root(root: Path | None, references: Sequence[str]) -> bytes | None:
    """What the repository must prove itself by before anything is signed on top of it. Raises BadRelease.

    A repository that somebody made up could otherwise get honest signatures; with nothing to prove itself by, that is
    said on stderr.
    """
    from tuf.api.metadata import Root

    from cloud_inspect.release.keys import is_file
    from cloud_inspect.release.repository import parse

    places = [Path(one) for one in references if one[:7].lower() != "pkcs11:"]
    near = [folder / "root.json" for one in places for folder in (one, one.parent, one.parent.parent)]
    chosen = root or next((one for one in near if is_file(str(one))), None)
    if chosen is None:
        if references:
            where = ", ".join(map(str, places)) or "a token"
            warn([f"no root.json beside {where}, no --root: nothing shows whose repository this is"])
        return None
    try:
        content = chosen.read_bytes()
    except OSError as err:
        raise BadRelease("root-unreadable", f"{chosen}: {err.strerror}") from err
    parse(content, Root, str(chosen))
    return content


def need_release() -> None:
    """Raises ReleaseMissing: one line that names the extra."""
    for name in ("tuf", "securesystemslib", "cryptography", "fsspec"):
        try:
            import_module(name)
        except ImportError as err:
            raise ReleaseMissing(f"{err.name} is not installed: pip install 'edge-inspect[cloud]'") from err


def open_places(url: str, staged: str | None, break_lock: bool = False, *, empty: bool = False) -> tuple[Store, Store]:
    """The repository and where its changes wait. Raises BadRelease (`not-a-repository`) unless it may be `empty`."""
    need_release()
    from cloud_inspect.release.repository import refuse_stranger
    from cloud_inspect.release.store import open_store

    if not empty:
        refuse_stranger(open_store(url))
    places = open_store(url), open_store(staged or f"{url.rstrip('/')}/staged")
    if break_lock:
        for place in places:
            place.break_lock()
    return places


def open_change(url: str, staged: str | None, root: Path | None, keys: Sequence[str]) -> Change:
    store, waiting = open_places(url, staged)
    from cloud_inspect.release.changes import Change
    from cloud_inspect.release.repository import utc_now

    return Change(store, waiting, utc_now(), trusted_root(root, keys))


def signers_of(
    references: Sequence[str],
    passphrase_file: Path | None,
    wanted: Callable[[], Mapping[str, Key]],
    option: str = "--key",
) -> list[Signer]:
    """Of a folder those keys that are `wanted`. Raises BadKey; also when there is none."""
    from cloud_inspect.release.keys import fitting, is_folder, open_signers, read_passphrase

    if not references:
        raise BadKey("key-missing", f"no key given: {option} FILE, folder or pkcs11: URI")
    passphrase = read_passphrase(passphrase_file)
    if any(map(is_folder, references)) and (keys := wanted()):
        references = fitting(references, keys, passphrase)
    warn_of_exposed(references)
    return open_signers(references, passphrase)


def online_signers_of(change: Change, references: Sequence[str], passphrase_file: Path | None) -> list[Signer]:
    """Keys of snapshot and timestamp, as they are and as a staged root wants them."""
    from cloud_inspect.release.layout import ONLINE_ROLES

    return signers_of(references, passphrase_file, lambda: change.wanted(*ONLINE_ROLES), "--online-key")


def resigners_of(
    change: Change, references: Sequence[str], passphrase_file: Path | None, *, stay: bool
) -> list[Signer]:
    """Online keys that can do it alone; those that sign nothing are told of. Raises BadKey, BadRelease, StoreGone."""
    from cloud_inspect.release.publish import refuse_strangers

    signers = online_signers_of(change, references, passphrase_file)
    warn(refuse_strangers(change.state(), signers, stay=stay))
    return signers


def warn_of_exposed(references: Sequence[str]) -> None:
    """Said on stderr, in one line."""
    from cloud_inspect.release.keys import exposed

    if found := exposed(references):
        warn([f"{', '.join(found)}: private, and not only its owner may read or change it; chmod 600"])


def warn(lines: Sequence[str]) -> None:
    for line in lines:
        _err.print(f"warning: {line}", highlight=False, soft_wrap=True, markup=False)


@contextmanager
def bar(what: str) -> Iterator[Progress]:
    """A bar of bytes on stderr."""
    from cloud_inspect.release.store import Progress

    columns = (TextColumn("[bold]{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    shown = RichProgress(*columns, console=_err, transient=True, disable=not _err.is_terminal)
    task = shown.add_task(what, total=None)

    class Bar(Progress):
        def expect(self, total_bytes: int) -> None:
            shown.update(task, total=total_bytes)
            shown.start()

        def advance(self, name: str, more_bytes: int) -> None:
            shown.update(task, description=f"{what} {_short(name)}", advance=more_bytes)

    try:
        yield Bar()
    finally:
        if shown.live.is_started:
            shown.stop()


def _short(name: str) -> str:
    """Without folders, and without the SHA-256 that files of a repository have before their name."""
    file = name.rpartition("/")[2]
    digest, _, rest = file.partition(".")
    return (rest if len(digest) == 64 else file)[-40:]


def show_signed(signed: Signed, as_json: bool, then: str, new_keys: Sequence[str] = ()) -> None:
    """What is staged now, in full, for whoever signs next; who signed it, who has yet to; `then`: the next command.

    `new_keys`: files that were made for it.
    """
    from cloud_inspect.release.rollouts import as_object
    from cloud_inspect.release.signing import rollout_lines

    found: dict[str, Any] = {
        "role": signed.role,
        "version": signed.version,
        "expires": signed.expires,
        "signed_by": list(signed.signed_by),
        "missing": list(signed.missing),
        "rollouts": [as_object(rollout) for rollout in signed.rollouts],
        "added": list(signed.added),
        "retired": list(signed.retired),
        "roles": list(signed.roles),
        "new_keys": list(new_keys),
        "warnings": list(signed.warnings),
    }
    warn(signed.warnings)
    if as_json:
        emit(found)
        return
    for rollout in signed.rollouts:
        for line in rollout_lines(rollout, signed):
            typer.echo(line)
    for line in (*signed.added, *(f"takes out for good: {one}" for one in signed.retired), *signed.roles):
        typer.echo(line)
    for file in new_keys:
        typer.echo(f"new key: {file}")
    by = ", ".join(signed.signed_by) or "nobody"
    typer.echo(f"staged: {signed.role} version {signed.version}, expires {signed.expires}, signed by {by}")
    for line in signed.missing:
        typer.echo(f"missing: {line}")
    if not signed.missing:
        typer.echo(f"next: {then}")
    elif not any(line.startswith(f"{signed.role}: ") for line in signed.missing):
        typer.echo(f"next, without the others: {then} --role {signed.role}")


def next_publish(url: str, staged: str | None, keys: Sequence[str], also: Sequence[str] = ()) -> str:
    """As it can be pasted; the online keys are looked for where `release init` puts them, beside the others.

    `also`: online keys that come with the change.
    """
    from cloud_inspect.release.keys import is_folder

    near = [place / "online" for one in keys if one[:7].lower() != "pkcs11:" for place in (Path(one), Path(one).parent)]
    online = next((str(one) for one in near if is_folder(str(one))), "KEYS/online")
    words = ["cloud-inspect", "release", "publish", url, *(["--staged", staged] if staged else [])]
    for one in (online, *(key for key in also if Path(key).parent != Path(online))):
        words += ["--online-key", one]
    return shlex.join(words)


def warn_of_state(state: State) -> list[str]:
    """What people should see to soon. Said on stderr."""
    from cloud_inspect.release.publish import expiring, filling
    from cloud_inspect.release.repository import utc_now

    lines = expiring(state, utc_now()) + filling(state)
    warn(lines)
    return lines
