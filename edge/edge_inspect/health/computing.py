"""What is wrong with the machine that computes the verdicts: told to the plant, never left for somebody to notice.

1. `provider-fallback`: `provider = "auto"` took a processor where a GPU computed at an earlier start. It stands until
   the GPU computes again, the configuration names a provider, or somebody deletes the file that remembers it.
2. `slower`: the network's 99th percentile is twice what it was in this process's best minute, for three minutes: heat,
   a dying fan, somebody else's work. It ends when a minute comes near the best one again.
3. `results-in-doubt`: a model judged a known picture wrongly while it was in use. What it had said since the known
   answer before that is named, with its times, for a week; the reports of that time carry the model's digest.

    computing = Computing(state_dir, wanted="auto")
    computing.look(pulses)          # now and then
    computing.alarms()
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

import structlog

from edge_inspect.counts import Durations
from edge_inspect.durable import write_durably
from edge_inspect.errors import StorageFailing
from edge_inspect.health.vitals import CameraPulse
from edge_wire.messages import Degraded

log = structlog.get_logger()

GPU = ("cuda", "tensorrt")
PROVIDER_FILE, DOUBTS_FILE = "provider.json", "doubts.jsonl"
MINUTE_S = 60.0
LEAST_RUNS = 200
"""In a minute; a percentile of fewer is chance."""
SLOWER, NEAR = 2.0, 1.5
MINUTES_IN_ROW = 3
DOUBT_FOR = timedelta(days=7)
MOST_DOUBTS = 100


@dataclass(slots=True)
class _Pace:
    """How long one camera's network takes, minute by minute."""

    before: Durations = field(default_factory=Durations)
    model: object = None
    best_ms: float | None = None
    now_ms: float = 0.0
    slow_minutes: int = 0

    @property
    def is_slower(self) -> bool:
        return self.slow_minutes >= MINUTES_IN_ROW

    def minute(self, pulse: CameraPulse) -> None:
        counted = pulse.counts.inference
        passed = counted.since(self.before)
        self.before = counted.since(Durations())
        if pulse.model != self.model:  # another model has its own pace
            self.model, self.best_ms, self.slow_minutes = pulse.model, None, 0
            return
        if passed.count < LEAST_RUNS:
            return
        self.now_ms = passed.percentile_ms(99) or 0.0
        best_ms = self.best_ms = min(self.best_ms or self.now_ms, self.now_ms)
        if self.now_ms > SLOWER * best_ms:
            self.slow_minutes += 1
        elif self.now_ms < NEAR * best_ms or not self.is_slower:
            self.slow_minutes = 0


class Computing:
    """`look` belongs to one thread, `alarms` to any."""

    def __init__(self, folder: Path, wanted: str, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        """wanted: the configured provider. Raises nothing for files that cannot be read: they are begun anew."""
        self._provider_file, self._doubts_file = folder / PROVIDER_FILE, folder / DOUBTS_FILE
        self._wanted = wanted
        self._clock_s = clock_s
        self._next_s = clock_s() + MINUTE_S
        self._paces: dict[str, _Pace] = {}
        self._provider = ""
        self._fallback = ""
        self._doubts = _recent(self._doubts_file)

    def look(self, pulses: Sequence[CameraPulse]) -> None:
        """Where the models run now, and once a minute how fast."""
        provider = next((pulse.provider for pulse in pulses if pulse.provider), "")
        if provider and provider != self._provider:
            self._provider = provider
            self._fallback = self._compare(provider)
        if self._clock_s() >= self._next_s:
            self._next_s = self._clock_s() + MINUTE_S
            for pulse in pulses:
                self._paces.setdefault(pulse.name, _Pace()).minute(pulse)

    def doubt(self, model: str, since: datetime, why: str) -> None:
        """That model answered a known picture wrongly just now, and rightly at `since` for the last time."""
        entry = {"model": model, "since": since.isoformat(), "until": _now().isoformat(), "why": why[:200]}
        self._doubts = [*self._doubts, entry][-MOST_DOUBTS:]
        log.error("results.in_doubt", **entry)
        try:
            write_durably(self._doubts_file, "".join(json.dumps(one) + "\n" for one in self._doubts).encode())
        except StorageFailing as err:
            log.warning("results.doubt_not_kept", why=str(err))

    def alarms(self) -> list[Degraded]:
        found = [Degraded(code="provider-fallback", detail=self._fallback)] if self._fallback else []
        found += [
            Degraded(code="slower", detail=f"{name}: p99 {pace.now_ms:.1f} ms, was {pace.best_ms:.1f} ms")
            for name, pace in self._paces.items()
            if pace.is_slower
        ]
        found += [
            Degraded(
                code="results-in-doubt",
                detail=f"{one['since'][:19]} to {one['until'][:19]} UTC, model {one['model'][7:19]}: "
                "it judged a known picture wrongly then",
            )
            for one in self._doubts[-3:]
        ]
        return found

    def _compare(self, provider: str) -> str:
        """With the start before; what to say if a GPU is gone."""
        try:
            before = json.loads(self._provider_file.read_bytes())
            was, on = str(before["provider"]), str(before["since"])
        except (OSError, ValueError, KeyError, TypeError):
            was, on = "", ""
        if self._wanted == "auto" and was in GPU and provider not in GPU:
            return f"{provider} computes, it was {was} ({on[:10]}); if that is meant, name the provider"
        if was != provider:
            try:
                said = {"provider": provider, "since": _now().isoformat()}
                write_durably(self._provider_file, json.dumps(said).encode())
            except StorageFailing as err:
                log.warning("provider.not_noted", why=str(err))
        return ""


def _recent(path: Path) -> list[dict[str, str]]:
    """Doubts of the last week; a file that cannot be read has none."""
    try:
        lines = path.read_text().splitlines()[-MOST_DOUBTS:]
        found = [{key: str(one[key]) for key in ("model", "since", "until", "why")} for one in map(json.loads, lines)]
        return [one for one in found if datetime.fromisoformat(one["until"]) > _now() - DOUBT_FOR]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _now() -> datetime:
    return datetime.now(timezone.utc)
