"""`edge-inspect model activate|rollback`: what a person may change about the models of a box."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import Console

from edge_inspect.cli.as_owner import as_owner_of
from edge_inspect.cli.model_box import ConfigFile, Place, StateDir, digest_meant, place
from edge_inspect.cli.options import AsJson
from edge_inspect.cli.output import emit
from edge_inspect.errors import InUse, Refusal, Usage
from edge_inspect.update.choose import chosen_by_person, limits_of
from edge_inspect.update.clock import utc_now
from edge_inspect.update.machine import Result, advance
from edge_inspect.update.record import PERSON_WENT_BACK
from edge_inspect.update.requests import LATE_S, Answer, Request, ask, wait_for, who_asks
from edge_inspect.update.stages import Outcome, Stage
from edge_inspect.update.store import Store

ANSWER_S = LATE_S
MOST_WHY = 200
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="Why, for the history.")]


class NotDone(Refusal):
    """The daemon, or the state of its models, says no."""


def activate(
    model: Annotated[list[str], typer.Argument(metavar="DIGEST | NAME VERSION", help="A package of `model list`.")],
    why: Why = "",
    state: StateDir = None,
    config: ConfigFile = None,
    json: AsJson = False,
) -> None:
    """Take a package that is on this box through its stages, also one that was refused or taken back before.

    With a running daemon it begins at once, else at the next start. A rollout newer than today's wins over it.
    """
    box = place(state, config)
    found, _ = box.look()
    request = Request(kind="activate", digest=digest_meant(box, found, model), by=who_asks(), why=_one_line(why))
    _tell(_asked(box, request, _activate_in), json)


def rollback(why: Why = "", state: StateDir = None, config: ConfigFile = None, json: AsJson = False) -> None:
    """Go back to the previous model at once; what is taken back is not tried again on its own.

    While a candidate is being tried, it is the candidate that goes.
    """
    box = place(state, config)
    _tell(_asked(box, Request(kind="rollback", by=who_asks(), why=_one_line(why)), _rollback_in), json)


def _one_line(why: str) -> str:
    """As the history can hold it. Raises Usage."""
    odd = any(letter < " " or letter == "\x7f" or "\ud800" <= letter <= "\udfff" for letter in why)
    if len(why) > MOST_WHY or odd:
        found = "a letter that no line can hold, e.g. a line break" if odd else f"{len(why)} letters"
        raise Usage(f"--why: found {found}; allowed: one line of at most {MOST_WHY} letters")
    return why


def _asked(box: Place, request: Request, act: Callable[[Store, Request], Answer]) -> Answer:
    """By the daemon, if one runs; else here, for its next start."""
    with as_owner_of(box.folder, box.state_dir, asks=f"edge-inspect model {request.kind}"):
        try:
            with box.open() as store:
                return act(store, request)
        except InUse:
            pass
        number = ask(box.folder, request)
        given = wait_for(box.folder, number, ANSWER_S)
    if given is None:
        raise NotDone(f"{box.state_dir}: the daemon does not answer within {ANSWER_S:g} s; look at its log")
    return given


def _activate_in(store: Store, request: Request) -> Answer:
    _go_home(store)
    state = store.state
    if state.stage is not Stage.IDLE:
        return Answer(ok=False, code="busy", text=f"stage {state.stage.value}; `model rollback` takes it back first")
    found = chosen_by_person(state, request, store.factory_digest, utc_now())
    if isinstance(found, Answer):
        return found
    store.package(found.model.digest)
    chosen = advance(state, Result(Outcome.DONE, "activate", request.why, by=request.by, candidate=found), utc_now())
    store.save(advance(chosen, Result(Outcome.DONE), utc_now()))
    text = f"no daemon runs: its next start takes it through its stages; {limits_of(state, found)}"
    return Answer(ok=True, text=text[:200])


def _go_home(store: Store) -> None:
    """What the next start would do first; a person may choose anew then. Raises BadModel, StorageFailing."""
    state = store.state
    if state.stage is Stage.REVERT:
        store.note_active(store.package(state.active))  # who went back, and why, before that is forgotten
        store.save(advance(state, Result(Outcome.DONE), utc_now()))
    elif state.stage is Stage.FETCH:
        store.save(advance(state, Result(Outcome.NOTHING), utc_now()))


def _rollback_in(store: Store, request: Request) -> Answer:
    state = store.state
    if state.stage in (Stage.IDLE, Stage.FETCH) and state.active is None:
        return Answer(ok=False, code="no-previous", text="the factory's model judges; there is none before it")
    if state.stage in (Stage.IDLE, Stage.FETCH) and state.previous is None:
        store.package(None)  # raises BadModel: better what judges now than nothing
    if state.stage is not Stage.REVERT:
        idle = state.model_copy(update={"stage": Stage.IDLE}) if state.stage is Stage.FETCH else state
        why = request.why or "taken back by hand"
        store.save(advance(idle, Result(Outcome.WITHDRAWN, PERSON_WENT_BACK, why, by=request.by), utc_now()))
    back = store.state.active[7:19] if store.state.active else "the factory's model"
    return Answer(ok=True, text=f"no daemon runs: its next start begins with {back}")


def _tell(answer: Answer, json: bool) -> None:
    """Raises NotDone."""
    if not answer.ok:
        raise NotDone(f"{answer.text} [{answer.code}]")
    Console(stderr=True, highlight=False).print(answer.text, soft_wrap=True)
    if json:
        emit({"ok": True, "text": answer.text})
