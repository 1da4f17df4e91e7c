"""Whoever looks in sees which model judges, which one is tried and how far it is, and what was refused last."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from edge_inspect.cli.status import page
from edge_inspect.health.metrics import metrics_page
from edge_inspect.health.observed import Observed, status
from edge_inspect.update.stages import Stage
from edge_wire.updates import ModelUpdate
from tests.edge.update.box import Box
from tests.wire.samples import DIGESTS, state_update


def observed(update: ModelUpdate | None) -> Observed:
    return Observed(
        device="plant-1/press-4/edge-0017", version="0.1.0", python="3.11", uptime_s=1.0, cameras=[], update=update
    )


def shown(update: ModelUpdate | None) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(page(status(observed(update))))
    return capture.get()


def test_status_says_it_in_one_line() -> None:
    (line,) = [line for line in shown(state_update().update).splitlines() if line.startswith("model")]
    assert "judges; metal-plate 1.2.0 shadow 42%; refused last:" in line and line.rstrip().endswith("trial-rate")
    assert "model" not in shown(None)


def test_metrics_have_it_too() -> None:
    text = metrics_page(lambda: observed(state_update().update))("")[1].decode()
    assert 'edge_inspect_update_stage{stage="shadow"} 1.0' in text and "edge_inspect_update_progress 0.42" in text
    assert f'edge_inspect_model{{digest="{DIGESTS[2]}",role="candidate"}} 1.0' in text
    assert f'edge_inspect_update_refused_timestamp_seconds{{code="trial-rate",digest="{DIGESTS[3]}"}}' in text
    assert "edge_inspect_model{" not in metrics_page(lambda: observed(None))("")[1].decode()


def test_only_asking_is_no_stage_that_anybody_hears_of(box: Box, models: dict[str, Path]) -> None:
    updater = box.start()
    before = updater.block()
    updater.step()
    assert box.store is not None and box.store.state.stage is Stage.FETCH
    assert updater.block() == before and before.stage == "idle"
    assert before.active == box.digests["factory"] and before.previous is None
    updater.step()
    assert updater.block() == before


def test_sequence_is_that_of_the_boxs_own_channel(box: Box) -> None:
    box.release("b", 7)
    box.run()
    assert box.updater is not None and box.store is not None
    floors = box.store.state.floors
    other = {"tiny/canary": floors["tiny/stable"].model_copy(update={"sequence": 900})}
    box.store.save(box.store.state.model_copy(update={"floors": floors | other}))
    assert box.updater.block().sequence == 7


def test_what_was_refused_is_told_with_its_code(box: Box) -> None:
    box.release("b")
    box.trial = type(box.trial)(parts=9, known_answer_failures=1)
    box.run()
    assert box.updater is not None
    block = box.updater.block()
    assert block.refused is not None and block.sequence == 1
    assert (block.refused.code, block.refused.digest) == ("trial-known-answer", box.digests["b"])
    assert [code for code, _ in box.updater.alarms()] == ["model-update"]
