"""What a device remembers of its models: the content of `state.json`.

1. `active` is the digest of the package that is to judge, None the factory's; so is `previous`, the one to go back to.
2. A floor only goes up: a rollout below it is an old one, whatever is signed.
3. A digest in `refused` is not tried again on its own.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from edge_inspect.update.shadow import ClassCounts, Latency, ShadowReport
from edge_inspect.update.stages import Stage
from edge_wire.fields import Block, Code, Count, Digest, OneLine, UtcTime
from edge_wire.release import ReleasedModel, Rollout, ShadowLimits, TrialLimits

MOST_REFUSED = 1000
MOST_KNOWN = 1000
MOST_LIMITS = 100


class Shadowed(Block):
    """What a shadow has shown: kept for the trial after it, and for the history."""

    parts: Count = 0
    same: Count = 0
    new_ng: Count = 0
    new_ok: Count = 0
    other_class: Count = 0
    active_ok: Count = 0
    active_ng: Count = 0
    unknown: Count = 0
    non_finite: Count = 0
    skipped: Count = 0
    seconds: float = 0.0
    share: float = 0.0
    by_class: dict[str, tuple[Count, Count, Count]] = {}
    """Class -> NG to the model before, of those OK to the new one, NG to the new one only."""
    answers_p50_ms: float | None = None
    beside_p50_ms: float | None = None
    rejected_missing: Count = 0
    """It passed though the model before rejected so many parts less than were asked for: the time was over."""

    @classmethod
    def of(cls, report: ShadowReport, limits: ShadowLimits | None = None) -> Shadowed:
        said: dict[str, Any] = {
            field.name: getattr(report, field.name) for field in fields(report) if field.name in _SAME_NAMES
        }
        each = {name: (c.active_ng, c.new_ok, c.new_ng) for name, c in report.by_class.items()}
        missing = max(0, limits.least_rejected - report.active_ng) if limits else 0
        return cls(
            **said, by_class=each, answers_p50_ms=report.answers.p50_ms, beside_p50_ms=report.beside.p50_ms,
            rejected_missing=missing,
        )  # fmt: skip

    def report(self) -> ShadowReport:
        said = {name: getattr(self, name) for name in _SAME_NAMES}
        each = {name: ClassCounts(*counts) for name, counts in self.by_class.items()}
        answers, beside = Latency(p50_ms=self.answers_p50_ms), Latency(p50_ms=self.beside_p50_ms)
        return ShadowReport(**said, by_class=each, answers=answers, beside=beside)


_SAME_NAMES = frozenset(asdict(ShadowReport())) & (frozenset(Shadowed.model_fields) - {"by_class"})


class Candidate(Block):
    """The model that is being tried, why, and how."""

    model: ReleasedModel
    asked_by: Literal["rollout", "person"]
    who: OneLine
    """Who released it, or the person on this box who asked for it."""
    released_at: UtcTime | None = None
    reason: OneLine = ""
    channel: str = ""
    """`product/channel`; empty where a person chose."""
    sequence: Count = 0
    shadow: ShadowLimits = ShadowLimits()
    trial: TrialLimits = TrialLimits()
    taken_at: UtcTime
    before: tuple[Digest | None, Digest | None] | None = None
    """Active and previous as they were when its trial began."""
    shadowed: Shadowed | None = None

    @classmethod
    def of(cls, rollout: Rollout, now: datetime) -> Candidate:
        return cls(
            model=rollout.model, asked_by="rollout", who=rollout.released_by, released_at=rollout.released_at,
            reason=rollout.reason, channel=channel_of(rollout), sequence=rollout.sequence, shadow=rollout.shadow,
            trial=rollout.trial, taken_at=now,
        )  # fmt: skip


class Floor(Block):
    """The newest rollout seen in a channel."""

    sequence: Count
    digest: Digest
    settled: bool = False
    """It was kept, refused or overruled: the same rollout is not taken up again."""


class RefusedDigest(Block):
    digest: Digest
    code: Code
    at: UtcTime


class LastRefusal(Block):
    """For people: what went wrong last, whether it is remembered or only put off."""

    code: Code
    at: UtcTime
    digest: Digest | None = None
    why: OneLine = ""


class Reason(Block):
    """Why another model judges than before, for the history; set where the change is decided."""

    code: Code
    why: OneLine = ""
    by: OneLine = ""


class Limits(Block):
    """What its publisher lets a model show."""

    shadow: ShadowLimits = ShadowLimits()
    trial: TrialLimits = TrialLimits()


class HistoryHead(Block):
    """How far the history went when this state was saved."""

    lines: Count = 0
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = "0" * 64


class State(Block):
    format: Literal[1] = 1
    stage: Stage = Stage.IDLE
    since: UtcTime
    saves: Count = 0
    """Since IDLE."""
    starts: Count = 0
    """Of this process with the candidate, the first included."""
    active: Digest | None = None
    previous: Digest | None = None
    candidate: Candidate | None = None
    reason: Reason | None = None
    last_refusal: LastRefusal | None = None
    floors: dict[str, Floor] = {}
    """By `product/channel`."""
    refused: Annotated[tuple[RefusedDigest, ...], Field(max_length=MOST_REFUSED)] = ()
    revoked: Annotated[tuple[Digest, ...], Field(max_length=MOST_REFUSED)] = ()
    known: Annotated[tuple[ReleasedModel, ...], Field(max_length=MOST_KNOWN)] = ()
    """Packages whose signatures were verified here: a person may choose among them."""
    limits: Annotated[dict[Digest, Limits], Field(max_length=MOST_LIMITS)] = {}
    """By digest: those of the newest rollout that brought it."""
    revoked_why: Annotated[dict[Digest, OneLine], Field(max_length=MOST_REFUSED)] = {}
    """By digest: who revoked it and why, as far as that was told."""
    history: HistoryHead = HistoryHead()

    def refusal_of(self, digest: str) -> RefusedDigest | None:
        return next((found for found in self.refused if found.digest == digest), None)


def channel_of(rollout: Rollout) -> str:
    return f"{rollout.product}/{rollout.channel}"
