"""`edge-inspect model import`: a release from a stick, and in one line what came of it."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from edge_inspect.cli.as_owner import as_owner_of
from edge_inspect.cli.log import configure_log
from edge_inspect.cli.model_box import ConfigFile, Place, StateDir, configured, digest_of_factory, here, place
from edge_inspect.cli.model_stick import in_words
from edge_inspect.cli.options import AsJson
from edge_inspect.cli.output import emit, size
from edge_inspect.errors import Refusal, SourceGone, Untrusted
from edge_inspect.update.fetch import FetchSettings, import_from
from edge_inspect.update.offers import Offer
from edge_inspect.update.released import rollout_of, rollout_target
from edge_inspect.update.shelf import Shelf
from edge_inspect.update.state import State, channel_of
from edge_inspect.update.take import Taker
from edge_inspect.update.transport import Source
from edge_inspect.update.trust import Trust
from edge_wire.release import Rollout


def import_model(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A stick or share that `release export` has written.")],
    state: StateDir = None,
    config: ConfigFile = None,
    json: AsJson = False,
) -> None:
    """Take a release from a folder, without a network: the same signatures are asked for, every byte is checked.

    A running daemon finds it within a second and takes it through its stages; else the next start does. Root does it as
    the user whom the models belong to.
    """
    box = place(state, config)
    read = configured(box)
    configure_log("warning", read.log.format)
    assert read.update is not None
    device = read.device
    settings = FetchSettings.of(
        read.update, site=device.site, line=device.line, device=device.device, state_dir=box.state_dir
    )
    with as_owner_of(box.models_dir, box.state_dir, asks="edge-inspect model import") as owner:
        _insist_on_sight(folder, owner)
        offer, text = taken(box, folder, settings)
    Console(stderr=True, highlight=False).print(text, soft_wrap=True)
    if json:
        found = {"digest": offer.rollout.model.digest, "sequence": offer.rollout.sequence} if offer else {}
        emit({"ok": True, "offered": offer is not None, "text": text, **found})


def taken(box: Place, folder: Path, settings: FetchSettings) -> tuple[Offer | None, str]:
    """What is offered now, and what came of it in words. Raises as `import_from`."""
    state, _, _ = box.look_anyway()
    console = Console(stderr=True, highlight=False)

    def told(done: int, total: int) -> None:
        if console.is_terminal:
            console.print(f"{size(done)} of {size(total)}", end="\r")

    try:
        offer = import_from(folder, replace(settings, progress=told), threading.Event())
        rollout = offer.rollout if offer else _rollout_in(folder, settings)
    except (Untrusted, SourceGone) as err:
        update = configured(box).update
        assert update is not None
        raise in_words(folder, settings, update.root, err) from err
    said = [*_revokes(box, state, rollout), *_offers(box, state, rollout, settings, offer)]
    return offer, "; ".join(said)


def _insist_on_sight(folder: Path, owner: str) -> None:
    """Raises Refusal where the models' owner cannot read the stick: desktops mount them for one user. Untrusted for a
    file."""
    for spot in (folder, folder / "metadata", folder / "targets"):
        try:
            mode = spot.stat().st_mode
        except PermissionError as err:
            raise _unseen(spot, owner) from err
        except OSError:
            continue  # `import_from` says so
        if not stat.S_ISDIR(mode):
            raise Untrusted("not-a-repository", f"{spot}: is a file, allowed: a folder, as `release export` makes it")
        if not os.access(spot, os.R_OK | os.X_OK, effective_ids=True):
            raise _unseen(spot, owner)


def _unseen(folder: Path, owner: str) -> Refusal:
    return Refusal(f"{folder}: {owner}, whose models these are, may not read it; copy it to where it may, e.g. /tmp")


def _offers(
    box: Place, state: State | None, rollout: Rollout, settings: FetchSettings, offer: Offer | None
) -> Iterator[str]:
    model = rollout.model
    name = f"{model.name} {model.version} ({model.digest[7:19]})"
    if not rollout.concerns(settings.site, settings.line, settings.device):
        yield f"{name} is for {_audience(rollout)}, this box is {settings.site}/{settings.line}/{settings.device}"
    elif model.digest in rollout.revoked:
        return
    elif model.digest == ((state.active if state else None) or digest_of_factory(box)):
        yield f"{name} judges here already"
    elif state is not None and offer is None:
        refusal, floor = state.refusal_of(model.digest), state.floors.get(channel_of(rollout))
        number = f"no. {floor.sequence}" if floor else "it"
        what = f": refused, {refusal.code}" if refusal else ""
        yield f"{name} is nothing new: {number} of {channel_of(rollout)} was decided here{what}"
    elif offer is not None and offer.package is None:
        refusal = state.refusal_of(model.digest) if state else None
        why = f" ({refusal.code})" if refusal else ""
        again = f"`model activate {model.name} {model.version}` tries it again"
        yield f"{name} was refused here before{why}: {again}"
    elif offer is not None:
        yield f"{name} is verified and offered; see `model list`"
    else:
        yield f"{name} is nothing new for this box"


def _revokes(box: Place, state: State | None, rollout: Rollout) -> Iterator[str]:
    """What it revokes of this box, if that is news."""
    known = {model.digest: f"{model.name} {model.version}" for model in (state.known if state else ())}
    known |= {named.digest: named.shown for named in here(box)}
    before = state.revoked if state else ()
    for digest in rollout.revoked:
        if digest in known and digest not in before:
            judged = ", which judges now: the one before it comes back" if state and digest == state.active else ""
            yield f"revokes {known[digest]} ({digest[7:19]}){judged}"


def _audience(rollout: Rollout) -> str:
    them = rollout.audience
    return "/".join(",".join(patterns) for patterns in (them.sites, them.lines, them.devices))


def _rollout_in(folder: Path, settings: FetchSettings) -> Rollout:
    """The channel's newest, verified, whomever it is for. Raises as `import_from`."""
    url, shelf = folder.resolve().as_uri(), Shelf(settings.models_dir)
    source = Source(ca=None, limits=settings.limits, stop=threading.Event())
    with shelf.hold():
        trust = Trust(
            shelf.trust, root=settings.root, metadata_url=f"{url}/metadata", targets_url=f"{url}/targets",
            source=source, built=settings.built, clock=settings.clock,
        )  # fmt: skip
        info = rollout_target(trust, settings.product, settings.channel)
        content = Taker(shelf, trust, source).take(info).read_bytes()
    return rollout_of(content, settings.product, settings.channel, info)
