"""`release sign`, `publish`, `revoke`, `list`, `verify`: models on their way to the devices, as a TUF repository."""

from __future__ import annotations

import getpass
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloud_inspect.cli import release_build, release_keys, release_prune, release_reach
from cloud_inspect.cli.output import AsJson, emit, print_table
from cloud_inspect.cli.release_options import (
    BreakLock,
    Keys,
    OnlineKeys,
    PassphraseFile,
    Product,
    Staged,
    TrustedRoot,
    Url,
    bar,
    next_publish,
    online_signers_of,
    open_change,
    open_places,
    show_signed,
    signers_of,
    trusted_root,
    warn_of_state,
)

if TYPE_CHECKING:
    from cloud_inspect.release.changes import Change
    from cloud_inspect.release.packages import Package
    from edge_wire.release import ReleasedModel, Rollout

Released = Annotated[
    str | None, typer.Option("--released", help="A package that is in the repository.", metavar="NAME/VERSION")
]
ReleasedBy = Annotated[
    str | None, typer.Option("--released-by", help="Who answers for it.", show_default="your user name")
]
Reason = Annotated[str, typer.Option("--reason", help="Why, for those who read the history.")]
_HEADS = ("product", "channel", "sequence", "model", "at (UTC)", "")
_NAMES = "may be repeated; * and ? stand for any characters"


def add(app: typer.Typer) -> None:
    family = typer.Typer(
        help="Sign model packages and publish them to the devices.",
        epilog="Example: cloud-inspect release init /srv/models --keys ~/keys --product metal-plate",
        no_args_is_help=True,
    )
    release_build.add(family)
    release_keys.add(family)
    for name, command in (
        ("sign", sign),
        ("publish", publish),
        ("list", list_releases),
        ("revoke", revoke),
        ("verify", verify),
    ):
        family.command(name)(command)
    release_reach.add(family)
    release_prune.add(family)
    app.add_typer(family, name="release")


def sign(
    url: Url,
    package: Annotated[Path | None, typer.Argument(help="Model package to release.", metavar="PACKAGE")] = None,
    product: Annotated[str | None, typer.Option(help="Product line: its keys sign its models only.")] = None,
    channel: Annotated[str, typer.Option(help="Which devices follow: those that have this channel.")] = "stable",
    key: Keys = [],  # noqa: B006
    passphrase_file: PassphraseFile = None,
    released: Released = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="To an older version, on purpose.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="The package that the channel is at already: other limits, other devices.")
    ] = False,
    reason: Reason = "",
    released_by: ReleasedBy = None,
    sites: Annotated[list[str] | None, typer.Option(help=f"Only these sites; {_NAMES}.")] = None,
    lines: Annotated[list[str] | None, typer.Option(help=f"Only these lines; {_NAMES}.")] = None,
    devices: Annotated[list[str] | None, typer.Option(help=f"Only these devices; {_NAMES}.")] = None,
    shadow_parts: Annotated[int | None, typer.Option(help="Parts to compare before a trial. Else 200.")] = None,
    shadow_rejected: Annotated[int | None, typer.Option(help="Of them, NG to the active model. Else 10.")] = None,
    shadow_most_s: Annotated[int | None, typer.Option(help="Longest wait for them. Else 604800.")] = None,
    most_new_ng: Annotated[float | None, typer.Option(help="Share of passed parts it may reject. Else 0.05.")] = None,
    most_new_ok: Annotated[float | None, typer.Option(help="Share of rejected parts it may pass. Else 0.05.")] = None,
    trial_parts: Annotated[int | None, typer.Option(help="Parts to judge before it is kept. Else 500.")] = None,
    trial_least_s: Annotated[int | None, typer.Option(help="Shortest trial. Else 60.")] = None,
    most_rate_shift: Annotated[
        float | None, typer.Option(help="Share of NG away from the shadow's. Else 0.05.")
    ] = None,
    most_unknown: Annotated[float | None, typer.Option(help="Share of UNKNOWN by its fault. Else 0.02.")] = None,
    role: Annotated[str | None, typer.Option(help="Sign a staged change of this role: root, targets.")] = None,
    renew: Annotated[bool, typer.Option("--renew", help="Stage the role again with a new expiry.")] = False,
    discard: Annotated[
        bool, typer.Option("--discard", help="Drop what is staged, of all or of one --role or --product.")
    ] = False,
    root: TrustedRoot = None,
    staged: Staged = None,
    json_: AsJson = False,
) -> None:
    """Stage a release of PACKAGE and sign it, or add a signature to what is staged. `publish` makes it real.

    Example: cloud-inspect release sign /srv/models ./plate-1.1.0 --product metal-plate --key metal-plate.pem
    """
    change = open_change(url, staged, root, key)
    if discard:
        return _discard(change, _role(role, product) if role or product else None, json_)
    wanted = _role(role, product)
    signers = signers_of(key, passphrase_file, lambda: change.wanted(wanted))
    then = next_publish(url, staged, key)
    if renew:
        return show_signed(change.renew(wanted, signers), json_, then)
    if package is None and released is None:
        return show_signed(change.countersign(wanted, signers), json_, then)
    if product is None:
        raise typer.BadParameter("--product says whose model it is")
    from cloud_inspect.release.rollouts import make_wish

    wish = make_wish(
        channel,
        released_by or user(),
        reason=reason,
        rollback=rollback,
        again=again,
        audience={"sites": _names(sites), "lines": _names(lines), "devices": _names(devices)},
        shadow={
            "parts": shadow_parts, "least_rejected": shadow_rejected, "most_s": shadow_most_s,
            "most_new_ng": most_new_ng, "most_new_ok": most_new_ok,
        },
        trial={
            "parts": trial_parts, "least_s": trial_least_s, "most_rate_shift": most_rate_shift,
            "most_unknown": most_unknown,
        },
    )  # fmt: skip
    model = _package(package) if package is not None else _find(change, product, str(released))
    with bar("stage") as progress:
        signed = change.release(product, wish, model, signers, progress)
    return show_signed(signed, json_, then)


def publish(
    url: Url,
    online_key: OnlineKeys,
    passphrase_file: PassphraseFile = None,
    old_keys_lost: Annotated[
        bool, typer.Option("--old-keys-lost", help="Rotated roles are signed by their new keys only.")
    ] = False,
    role: Annotated[str | None, typer.Option(help="Only this role's change, e.g. targets; the others wait on.")] = None,
    root: TrustedRoot = None,
    staged: Staged = None,
    break_lock: BreakLock = False,
    json_: AsJson = False,
) -> None:
    """Check what is staged and make it real: files first, then metadata. May be repeated when interrupted.

    Example: cloud-inspect release publish /srv/models --online-key ~/keys/online
    """
    store, waiting = open_places(url, staged, break_lock)
    from cloud_inspect.release import publish as publishing
    from cloud_inspect.release.changes import Change
    from cloud_inspect.release.repository import load, utc_now
    from cloud_inspect.release.signing import counted

    trusted = trusted_root(root, online_key)
    signers = online_signers_of(Change(store, waiting, utc_now(), trusted), online_key, passphrase_file)
    with bar("publish") as progress:
        done = publishing.publish(
            store, waiting, signers, utc_now(), trusted, old_keys_lost=old_keys_lost, only=role, progress=progress
        )
    warnings = warn_of_state(load(store, trusted))
    if json_:
        return emit({"roles": done.roles, "files": done.files, "bytes": done.bytes, "warnings": warnings})
    versions = ", ".join(f"{role} {version}" for role, version in done.roles.items())
    size = f"{counted(done.files, 'file')}, {counted(done.bytes, 'byte')}"
    return typer.echo(f"published: {versions or 'nothing new'}; {size}")


def revoke(
    url: Url,
    product: Product,
    released: Annotated[str, typer.Option("--released", help="What must not run any more.", metavar="NAME/VERSION")],
    reason: Annotated[str, typer.Option("--reason", help="Why; devices show it in their history.")],
    key: Keys,
    to: Annotated[str | None, typer.Option(help="What shall run instead.", metavar="NAME/VERSION")] = None,
    passphrase_file: PassphraseFile = None,
    released_by: ReleasedBy = None,
    root: TrustedRoot = None,
    staged: Staged = None,
    json_: AsJson = False,
) -> None:
    """Stage rollouts that revoke a package on every channel of the product; whoever runs it goes back.

    Example: cloud-inspect release revoke URL --product plate --released plate/1.1.0 --reason "misses dents" --key K
    """
    if not reason.strip():
        raise typer.BadParameter("--reason: is empty; say why, devices show it in their history")
    change = open_change(url, staged, root, key)
    from cloud_inspect.release.layout import product_role
    from cloud_inspect.release.rollouts import make_wish

    signers = signers_of(key, passphrase_file, lambda: change.wanted(product_role(product)))
    wish = make_wish("all", released_by or user(), reason=reason)
    instead = _find(change, product, to) if to else None
    model = _find(change, product, released, or_retired=True)
    show_signed(change.revoke(product, model, wish, signers, instead), json_, next_publish(url, staged, key))


def list_releases(url: Url, json_: AsJson = False) -> None:
    """List what every channel runs, for whom, by whom and why; what was revoked; how long the signatures hold.

    Example: cloud-inspect release list /srv/models
    """
    store, _ = open_places(url, None)
    from cloud_inspect.release.layout import product_role
    from cloud_inspect.release.repository import load
    from cloud_inspect.release.signing import package_names, revocation_lines
    from cloud_inspect.release.staging import rollouts

    state = load(store)
    found = {product: list(rollouts(product, state.product(product), store).values()) for product in state.products}
    expires = {product: state.roles[product_role(product)].signed.expires for product in state.products}
    warnings = warn_of_state(state)
    every = [rollout for each in found.values() for rollout in each]
    if json_:
        rows = [_as_object(one) | {"expires": f"{expires[one.product]:%Y-%m-%dT%H:%M:%SZ}"} for one in every]
        absent = {"absent": list(state.absent)}
        return emit({"products": list(state.products), "rollouts": rows, "warnings": warnings} | absent)
    if every:
        print_table(_HEADS, map(_row, every))
    for product, each in found.items():
        for rollout in each:
            typer.echo(f"{product} {rollout.channel}: {_more(rollout)}")
        names, newest = package_names(state.product(product)), {key: one for one in each for key in one.revoked}
        for digest, rollout in newest.items():
            typer.echo(f"{product}: {next(revocation_lines(rollout, names, [digest]))}")
        typer.echo(f"{product}: {'' if each else 'nothing is released yet; '}expires {expires[product]:%Y-%m-%d}")
    for product in state.absent:
        typer.echo(f"{product}: nothing of it is in this copy")
    if not found:
        typer.echo("no products yet")
    return None


def verify(
    url: Url,
    root: Annotated[Path | None, typer.Option(help="root.json as devices have it. Else the first one.")] = None,
    json_: AsJson = False,
) -> None:
    """Check the whole repository as a fresh device would, and every file in it. Exit status 1 when anything is wrong.

    Example: cloud-inspect release verify /srv/models --root ~/keys/root.json
    """
    store, _ = open_places(url, None)
    from cloud_inspect.release import verify as verifying
    from cloud_inspect.release.repository import load
    from cloud_inspect.release.signing import counted

    trusted = trusted_root(root, [])
    with bar("verify") as progress:
        found = verifying.verify(store, trusted, progress)
    state = load(store, trusted)
    warnings = warn_of_state(state)
    if json_:
        emit(
            {
                "ok": not found.troubles, "products": list(found.products), "absent": list(state.absent),
                "versions": found.versions,
                "files": found.files, "bytes": found.bytes, "troubles": list(found.troubles), "warnings": warnings,
            }
        )  # fmt: skip
    else:
        for line in (*found.troubles, *(f"{one}: nothing of it is in this copy" for one in state.absent)):
            typer.echo(line)
        size = f"{counted(found.files, 'file')}, {counted(found.bytes, 'byte')}"
        typer.echo(f"{size} good; {counted(len(found.troubles), 'trouble')}")
    if found.troubles:
        raise typer.Exit(1)


def _discard(change: Change, role: str | None, as_json: bool) -> None:
    dropped, where = change.discard(role), change.staging.store.url
    if as_json:
        return emit({"discarded": where, "roles": dropped})
    return typer.echo(f"discarded: {where}: {', '.join(dropped)}" if dropped else f"nothing was staged in {where}")


def _more(rollout: Rollout) -> str:
    """What the table has no room for."""
    from cloud_inspect.release.limits import DEFAULTS, own_limits, whom

    own = ", ".join(f"{name} {value} (default {DEFAULTS[name]})" for name, value in own_limits(rollout).items())
    why = f"reason: {rollout.reason}" if rollout.reason else ""
    parts = (rollout.model.digest[7:19], f"for {whom(rollout.audience)}", f"by {rollout.released_by}", own, why)
    return "; ".join(filter(None, parts))


def user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return f"user {os.getuid()}"


def _role(role: str | None, product: str | None) -> str:
    from cloud_inspect.release.layout import product_role

    if (role is None) == (product is None):
        raise typer.BadParameter("one of --product and --role says what is signed")
    return role or product_role(str(product))


def _names(names: list[str] | None) -> tuple[str, ...] | None:
    return tuple(names) if names else None


def _package(folder: Path) -> Package:
    from cloud_inspect.release.packages import read_package

    return read_package(folder)


def _find(change: Change, product: str, text: str, *, or_retired: bool = False) -> ReleasedModel:
    from cloud_inspect.release.rollouts import released

    match = re.fullmatch(r"([^/]+)/([^/]+)", text)
    if match is None:
        raise typer.BadParameter(f"{text}: must be NAME/VERSION, e.g. metal-plate/1.1.0")
    return released(product, change.state().product(product), match[1], match[2], or_retired=or_retired)


def _row(rollout: Rollout) -> tuple[Any, ...]:
    model, gone = rollout.model, rollout.model.digest in rollout.revoked
    state = ["rollback"] * (rollout.action == "rollback") + ["REVOKED"] * gone
    at = f"{rollout.released_at:%Y-%m-%d %H:%M}"
    return rollout.product, rollout.channel, rollout.sequence, f"{model.name} {model.version}", at, ", ".join(state)


def _as_object(rollout: Rollout) -> dict[str, Any]:
    from cloud_inspect.release.rollouts import as_object

    return as_object(rollout) | {"revoked_now": rollout.model.digest in rollout.revoked}
