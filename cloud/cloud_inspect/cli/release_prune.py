"""`release prune`: what nobody needs any more goes, so that a repository does not grow for ever."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer

from cloud_inspect.cli.output import AsJson, emit
from cloud_inspect.cli.release_options import (
    BreakLock,
    Keys,
    OnlineKeys,
    PassphraseFile,
    Staged,
    TrustedRoot,
    Url,
    next_publish,
    online_signers_of,
    open_places,
    show_signed,
    signers_of,
    trusted_root,
    warn_of_state,
)


def add(family: typer.Typer) -> None:
    family.command()(prune)


def prune(
    url: Url,
    product: Annotated[
        str | None, typer.Option(help="Take packages of this product out. Else only files that nobody names go.")
    ] = None,
    keep: Annotated[
        int, typer.Option(min=0, max=1000, help="Of each channel, so many packages that it ran before the present one.")
    ] = 5,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; else it is only shown.")] = False,
    key: Keys = [],  # noqa: B006
    online_key: OnlineKeys = [],  # noqa: B006
    passphrase_file: PassphraseFile = None,
    root: TrustedRoot = None,
    staged: Staged = None,
    break_lock: BreakLock = False,
    json_: AsJson = False,
) -> None:
    """Take out packages that no channel runs or ran lately, for good, and remove the files that nobody names then.

    Example: cloud-inspect release prune URL --product metal-plate --key plate.pem --online-key ~/keys/online --yes
    """
    store, waiting = open_places(url, staged, break_lock)
    from cloud_inspect.release import prune as pruning
    from cloud_inspect.release.changes import Change
    from cloud_inspect.release.layout import product_role
    from cloud_inspect.release.publish import publish
    from cloud_inspect.release.repository import load, utc_now

    trusted = trusted_root(root, [*key, *online_key])
    change = Change(store, waiting, utc_now(), trusted)
    state = change.state()
    found = pruning.plan(store, state, product, keep) if product else pruning.Plan({}, ())
    told: dict[str, Any] = {"packages": found.packages, "kept": list(found.kept)}
    if not yes:
        return _show(told | {"files": len(pruning.leftovers(store, state, keep)), "done": False}, json_)
    if product and found.packages:
        signers = signers_of(key, passphrase_file, lambda: change.wanted(product_role(product)))
        signed = change.retire(product, list(found.packages), signers)
        if signed.missing or not online_key:
            show_signed(signed, json_, next_publish(url, staged, key))
            again = ["cloud-inspect", "release", "prune", url, "--yes"]
            return typer.echo(f"after that, for the files: {shlex.join(again)}", err=True)
        publish(store, waiting, online_signers_of(change, online_key, passphrase_file), utc_now(), trusted)
    removed = pruning.sweep(store, keep, trusted, change.staging.root())
    told["warnings"] = warn_of_state(load(store, trusted, change.staging.root()))
    return _show(told | {"files": len(removed), "done": True}, json_)


def _show(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return emit(told)
    from cloud_inspect.release.signing import counted

    for package in told["kept"]:
        typer.echo(f"stays: {package}")
    for package, length in told["packages"].items():
        typer.echo(f"{'taken out' if told['done'] else 'would go'}: {package}, {counted(length, 'byte')}")
    what = "removed" if told["done"] else "there already"
    typer.echo(f"{what}: {counted(told['files'], 'file')} that nobody names")
    if not told["done"]:
        typer.echo("nothing was changed; to do it: --yes")
    return None
