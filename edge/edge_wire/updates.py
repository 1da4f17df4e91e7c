"""Models on their way: the plant's hint that there is a release, and how far a device is with it.

1. A hint (`Desired`, retained) only makes a device look sooner. What it takes, and whether, comes from the signed
   rollout; a forged or stale hint costs one look.
2. A device says in its state which model judges, which one it tries and how far it is, and what it refused last.

    Desired.from_bytes(payload).sequence        # is there something newer than what we have seen?
    state.update.stage, state.update.candidate
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from edge_wire.fields import Block, Code, Count, Digest, Name, Seq, UtcTime
from edge_wire.message import Message
from edge_wire.release import ChannelName, ProductName, ReleasedModel

UpdateStage = Literal["idle", "fetch", "verify", "probe", "shadow", "trial", "keep", "revert"]


class Desired(Message):
    """There is a rollout: a hint, retained. Trust comes from the rollout's signatures, never from here."""

    kind: ClassVar[str] = "inspect.desired/1"

    type: Literal["inspect.desired/1"] = "inspect.desired/1"
    device: Name | None = None
    """Whom it is meant for; null: whoever reads it."""
    product: ProductName
    channel: ChannelName
    sequence: Seq
    """Of the rollout."""
    digest: Digest
    """Of the package's manifest."""


class RefusedModel(Block):
    """A candidate that this device did not take, or took back."""

    digest: Digest
    code: Code
    """Why; docs/models.md lists them."""
    at: UtcTime


class ModelUpdate(Block):
    """Which model judges here, and how far an update is."""

    stage: UpdateStage
    since: UtcTime
    """Since when it is in this stage."""
    active: Digest
    """Of the model that judges."""
    previous: Digest | None = None
    """Of the one to go back to; null: the factory's."""
    candidate: ReleasedModel | None = None
    """The one that is being tried; null: none."""
    progress: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of the stage; null where nobody can tell."""
    refused: RefusedModel | None = None
    """The last one that was refused or taken back."""
    sequence: Count = 0
    """Of the newest rollout that this device has seen in its channel; 0: none yet."""
