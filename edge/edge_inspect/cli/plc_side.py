"""What the PLC simulator needs at the command line: its thread, its table on the screen, its numbers as JSON."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from edge_inspect.errors import Refusal

if TYPE_CHECKING:
    from edge_inspect.line.plc_program import PlcProgram

STOP_S = 10.0


def need_pymodbus() -> None:
    """The simulator's library is an extra. Raises Refusal, one line."""
    try:
        import pymodbus  # noqa: F401
    except ModuleNotFoundError as err:
        raise Refusal("the PLC simulator needs pymodbus: pip install 'edge-inspect[line]'") from err


@contextmanager
def plc_running(run: Callable[[threading.Event], None]) -> Iterator[None]:
    """The simulator in a thread of its own; what ended it early is raised at the end of the block."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def body() -> None:
        try:
            run(stop)
        except BaseException as err:  # noqa: BLE001 - a thread's top: raised below
            errors.append(err)

    thread = threading.Thread(target=body, name="plc", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(STOP_S)
    if errors:
        raise errors[0] if not isinstance(errors[0], OSError) else Refusal(f"PLC simulator: {errors[0]}")


def plc_numbers(program: PlcProgram) -> dict[str, Any]:
    """What `--json` prints of the PLC: its counts, and from trigger to answer in its memory in ms."""
    latency = {**program.latency.summary(50, 99, 99.9), "max": program.latency.max_ms}
    return {**asdict(program.counts), "answer_ms": latency}


def plc_table(program: PlcProgram, title: str, *, ended: bool = False) -> Table:
    """Triggers, answers, and what the gate did with them. ended: the other side has, as it should: no heartbeat."""
    counts = program.counts
    times = (program.latency.percentile_ms(50), program.latency.percentile_ms(99), program.latency.max_ms)
    told = " / ".join("-" if ms is None else f"{ms:.1f}" for ms in times)
    alive = "" if ended else f"heartbeat {'[green]alive' if program.alive else '[red]silent'}[/], "
    table = Table(title=title, caption=f"{alive}trigger to answer p50 / p99 / max: {told} ms")
    for heading in ("triggers", "answers", "OK", "NG", "UNKNOWN", "missed", "passed", "rejected"):
        table.add_column(heading, justify="right")
    table.add_row(
        str(counts.triggers), str(counts.answers), f"[green]{counts.ok}", f"[red]{counts.ng}",
        f"[yellow]{counts.unknown}", str(counts.missed_deadlines), str(counts.passed), str(counts.rejected),
    )  # fmt: skip
    return table
