"""`release serve`, `resign`, `export`, `announce`: how releases reach the devices."""

from __future__ import annotations

import asyncio
import signal
import threading
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from cloud_inspect.cli.options import (
    Ca,
    Cert,
    Key,
    MqttUrl,
    PasswordFile,
    SettingsFile,
    Username,
    need_cloud,
    settings_from,
)
from cloud_inspect.cli.output import AsJson, configure_log, emit, finish
from cloud_inspect.cli.release_options import (
    BreakLock,
    OnlineKeys,
    PassphraseFile,
    Product,
    TrustedRoot,
    Url,
    bar,
    open_places,
    resigners_of,
    trusted_root,
    warn,
    warn_of_state,
)
from cloud_inspect.errors import BadRelease, StoreGone

EverySeconds = Annotated[float, typer.Option("--every", min=1, help="Seconds between looks whether it is time.")]


def add(family: typer.Typer) -> None:
    for command in (serve, resign, export, announce):
        family.command()(command)


def serve(
    folder: Annotated[Path, typer.Argument(help="The repository's folder.", metavar="FOLDER")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8080,
    connections: Annotated[int, typer.Option(min=1, max=1000, help="At most so many at a time.")] = 32,
    root: TrustedRoot = None,
    resign_: Annotated[bool, typer.Option("--resign", help="Sign snapshot and timestamp again in time.")] = False,
    online_key: OnlineKeys = [],  # noqa: B006
    passphrase_file: PassphraseFile = None,
    every: EverySeconds = 600.0,
    json_: AsJson = False,
) -> None:
    """Serve a repository over HTTP to a small plant, with byte ranges; only metadata/ and targets/ are reachable.

    Example: cloud-inspect release serve /srv/models --host 0.0.0.0 --resign --online-key ~/keys/online
    """
    if online_key and not resign_:
        raise typer.BadParameter("--online-key: signs nothing without --resign; give both or neither")
    store, waiting = open_places(str(folder), None)
    from cloud_inspect.release.changes import Change
    from cloud_inspect.release.publish import keep_signed
    from cloud_inspect.release.repository import load, utc_now
    from cloud_inspect.release.serve import ReleaseServer

    if not folder.is_dir():
        raise BadRelease("not-a-folder", f"{folder}: only a folder can be served")
    warn_of_state(load(store))
    configure_log()
    stop = threading.Event()
    trusted = trusted_root(root, online_key) if resign_ else None
    change = Change(store, waiting, utc_now(), trusted)
    signers = resigners_of(change, online_key, passphrase_file, stay=True) if resign_ else []
    with ReleaseServer(folder, host, port, most_connections=connections) as server:

        def leave(*_: object) -> None:
            threading.Thread(target=server.shutdown, name="leave").start()  # shutdown waits for serve_forever

        def sign() -> None:
            try:
                keep_signed(store, signers, utc_now, stop, every, trusted)
            finally:
                if not stop.is_set():  # dead of something nobody foresaw: better no server than one that goes stale
                    died.set()
                    leave()

        died = threading.Event()
        signer = threading.Thread(target=sign, name="resign") if resign_ else None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, leave)
        if signer is not None:
            signer.start()
        typer.echo(f"serving {folder} at {server.url}", err=json_)
        if json_:
            emit({"url": server.url, "folder": str(folder)})
        try:
            server.serve_forever(poll_interval=0.2)
        finally:
            stop.set()
            if signer is not None:
                signer.join()
    if died.is_set():
        raise StoreGone("signing-died", f"{folder}: nothing signs any more, so nothing is served; start it again")


def resign(
    url: Url,
    online_key: OnlineKeys,
    passphrase_file: PassphraseFile = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and sign again whenever it is time.")] = False,
    every: EverySeconds = 600.0,
    force: Annotated[bool, typer.Option("--force", help="Also where it is not time yet.")] = False,
    days: Annotated[
        int | None,
        typer.Option(min=1, max=90, help="Both at once, for so long: for sticks that travel. Else 14 and 2."),
    ] = None,
    root: TrustedRoot = None,
    break_lock: BreakLock = False,
    json_: AsJson = False,
) -> None:
    """Sign snapshot and timestamp again once half their time is over. Needs no offline key.

    Example: cloud-inspect release resign /srv/models --online-key ~/keys/online --watch
    """
    store, waiting = open_places(url, None, break_lock)
    from cloud_inspect.release import publish
    from cloud_inspect.release.changes import Change
    from cloud_inspect.release.repository import load, utc_now

    trusted = trusted_root(root, online_key)
    change = Change(store, waiting, utc_now(), trusted)
    signers = resigners_of(change, online_key, passphrase_file, stay=watch)
    if watch:
        configure_log()
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        publish.keep_signed(store, signers, utc_now, stop, every, trusted)
        return finish({"watched": url}, json_)
    done = publish.resign(
        store, signers, utc_now(), trusted, force=force, holds_for=timedelta(days=days) if days else None
    )
    warnings = warn_of_state(load(store, trusted))
    if json_:
        return emit({"roles": done, "warnings": warnings})
    return typer.echo(
        "signed again: " + (", ".join(f"{one} {version}" for one, version in done.items()) or "none was due")
    )


def export(
    url: Url,
    usb: Annotated[Path, typer.Option(help="Folder of the mounted stick.", metavar="DIR")],
    product: Product,
    channel: Annotated[str | None, typer.Option(help="Only this channel.")] = None,
    json_: AsJson = False,
) -> None:
    """Copy what devices need of a product onto a stick, verified and synced: `edge-inspect model import DIR` takes it.

    Example: cloud-inspect release export /srv/models --usb /media/stick --product metal-plate
    """
    store, _ = open_places(url, None)
    from cloud_inspect.release import export as exporting
    from cloud_inspect.release.repository import utc_now
    from cloud_inspect.release.signing import counted

    with bar("export") as progress:
        done = exporting.export(store, usb, product, channel, progress)
    warn(done.warnings)
    if json_:
        found = {"files": done.files, "bytes": done.bytes, "expires": f"{done.expires:%Y-%m-%dT%H:%M:%SZ}"}
        revoked = {"revoked_now": list(done.revoked), "beside": done.beside, "warnings": list(done.warnings)}
        return emit({"usb": str(usb), "product": product, "channels": done.channels} | revoked | found)
    for name, model in done.channels.items():
        what = f"revokes {model}; boxes that run it go back to what they ran before" if name in done.revoked else model
        typer.echo(f"{product}, channel {name}: {what}")
    for other, channels in done.beside.items():
        for name, model in channels.items():
            typer.echo(f"{other}, channel {name}: {model}; was on it already and is as new as the others")
    size, until = f"{counted(done.files, 'file')}, {counted(done.bytes, 'byte')}", f"{done.expires:%Y-%m-%d %H:%M} UTC"
    holds = f"devices take it until {until}" if done.expires > utc_now() else f"no device takes it: expired {until}"
    return typer.echo(f"{usb}: {size}; {holds}")


def announce(
    url: Url,
    product: Product,
    device: Annotated[list[str], typer.Option(help="Device to tell. May be repeated.", metavar="SITE/LINE/DEVICE")],
    channel: Annotated[str, typer.Option(help="The channel those devices follow.")] = "stable",
    mqtt: MqttUrl = None,
    config: SettingsFile = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    username: Username = None,
    password_file: PasswordFile = None,
    json_: AsJson = False,
) -> None:
    """Tell devices that there is a rollout, a hint: trust is in the signatures. Exit status 1 when nobody listens.

    Example: cloud-inspect release announce URL --product metal-plate --device plant1/press-4/edge-17 --mqtt mqtt://broker
    """
    need_cloud()
    store, _ = open_places(url, None)
    from cloud_inspect.release import announce as announcing
    from cloud_inspect.release.repository import load
    from cloud_inspect.release.staging import rollouts

    devices = announcing.devices_of(device)
    settings = settings_from(
        config, None, url=mqtt, ca=ca, cert=cert, key=key, username=username, password_file=password_file
    )
    found = rollouts(product, load(store).product(product), store)
    if channel not in found:
        raise BadRelease("unknown-channel", f"channel {channel}: {product} has: {', '.join(found) or 'none'}")
    rollout = found[channel]
    told, deaf = asyncio.run(announcing.announce(settings.mqtt, rollout, devices))
    left_out = [one for one in device if one not in told]
    if json_:
        heard = {"listening": len(told) - len(deaf), "nobody_listens": deaf}
        emit({"told": told} | heard | {"not_concerned": left_out, "sequence": rollout.sequence})
    else:
        for one in told:
            waits = "nobody listens there; the hint waits at the broker" if one in deaf else "listens"
            typer.echo(f"told {one}: sequence {rollout.sequence}; {waits}")
        for one in left_out:
            typer.echo(f"not told {one}: the rollout is not for it")
    if told and len(deaf) == len(told):
        raise typer.Exit(1)
