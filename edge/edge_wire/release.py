"""What a release says beside its model package: for whom it is, and how the device is to try it.

    <product>/<model>/<version>/manifest.json        one TUF target for each file of the package
    <product>/<model>/<version>/model.onnx
    <product>/<model>/<version>/golden/plate-1.png
    <product>/channels/<channel>.json                a Rollout: which of them devices should run now

1. A rollout is signed like every target, by the key of its product line; a name on MQTT is a hint and no more.
2. `sequence` only ever goes up within a channel: a device that has seen 7 refuses 6. Going back to an older model is a
   new rollout with `action = "rollback"`, never an old one.
3. A revocation's who, when and why lie beside the rollout, in what is signed of the file (TUF's `custom`), so that a
   device that knows nothing of them reads the rollout as ever; the rollout's own who and why are its model's.
4. Whom it is not for, it does not concern: `concerns` decides, by the device's own three names.
5. The limits say what shadow and trial must show. A device takes them as they are, within bounds of its own.

    rollout = Rollout.model_validate_json(content)
    rollout.concerns("plant1", "press-4", "edge-0017")
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import ConfigDict, Field, StringConstraints, ValidationError

from edge_wire.fields import Block, Digest, OneLine, UtcTime

CHANNELS = "channels"
MOST_ROLLOUT_BYTES = 64 * 1024
REVOCATIONS = "x-edge-inspect-revocations"
"""In `custom` of a channel's target: a list of Revocation."""
SIGNED_AT = "x-edge-inspect-signed-at"
"""In timestamp.json: when it was signed. A device whose clock is behind knows better from here."""

ProductName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
"""A product line: its key signs its models and nobody else's."""
ChannelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")]
Pattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9*?][A-Za-z0-9._*?-]{0,39}$")]
"""A name of a site, line or device; `*` and `?` stand for any characters and any one character."""
Share = Annotated[float, Field(ge=0.0, le=1.0)]
ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
_NUMBER = "(0|[1-9][0-9]{0,5})"
_WORD = "(0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
VERSION_PATTERN = rf"^{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-{_WORD}(\.{_WORD})*)?$"
ModelVersion = Annotated[str, StringConstraints(pattern=VERSION_PATTERN, max_length=61)]
"""Semantic Versioning 2.0.0 without build metadata: no leading zeros, so no two of them are equal in order."""


class ReleasedModel(Block):
    name: ModelName
    version: ModelVersion
    digest: Digest
    """Of the package's manifest.json, which holds the digests of all other files."""


class Audience(Block):
    """Everything that matches all three."""

    sites: Annotated[tuple[Pattern, ...], Field(min_length=1, max_length=100)] = ("*",)
    lines: Annotated[tuple[Pattern, ...], Field(min_length=1, max_length=100)] = ("*",)
    devices: Annotated[tuple[Pattern, ...], Field(min_length=1, max_length=1000)] = ("*",)


class ShadowLimits(Block):
    """The candidate judges the same parts beside the active model; what both said is compared."""

    parts: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    """So many parts compared before a trial."""
    least_rejected: Annotated[int, Field(ge=0, le=1_000_000)] = 10
    """Of them, so many that the active model rejects: on good parts alone a model that passes bad ones looks good."""
    most_s: Annotated[int, Field(ge=1, le=30 * 86_400)] = 7 * 86_400
    """Longest time to wait for both. Then a candidate with enough parts passes, however few of them were rejected;
    one with too few parts is put off (`shadow-too-few`), not refused for good."""
    most_new_ng: Share = 0.05
    """Of the parts that the active model passes, at most this share may be NG to the candidate."""
    most_new_ok: Share = 0.05
    """Of the parts that the active model rejects, at most this share may be OK to the candidate: possible escapes."""


class TrialLimits(Block):
    """The candidate answers the line; the model before it judges beside it."""

    parts: Annotated[int, Field(ge=1, le=1_000_000)] = 500
    """So many parts judged before it is kept."""
    least_s: Annotated[int, Field(ge=0, le=30 * 86_400)] = 60
    most_rate_shift: Share = 0.05
    """Share of NG parts: at most so far from what the shadow predicted for the same parts."""
    most_unknown: Share = 0.02
    """Share of parts that became UNKNOWN for the model's sake: non-finite output, deadline, model swap."""


class Revocation(Block):
    """Who revoked a package, when and why; what later versions say beside that is left alone."""

    model_config = ConfigDict(extra="ignore")

    digest: Digest
    by: OneLine
    at: UtcTime
    reason: OneLine = ""


class Rollout(Block):
    format: Literal[1] = 1
    product: ProductName
    channel: ChannelName
    sequence: Annotated[int, Field(ge=1, le=2**53 - 1)]
    action: Literal["release", "rollback"] = "release"
    """A rollback goes to a version older than the one that runs; it takes the same stages."""
    model: ReleasedModel
    audience: Audience = Audience()
    shadow: ShadowLimits = ShadowLimits()
    trial: TrialLimits = TrialLimits()
    revoked: Annotated[tuple[Digest, ...], Field(max_length=1000)] = ()
    """Packages that must not run any more, whatever was said before; whoever runs one goes back."""
    released_by: OneLine
    released_at: UtcTime
    reason: OneLine = ""
    """Why this model, for the person who reads the history."""
    revocations: Annotated[tuple[Revocation, ...], Field(max_length=1000, exclude=True)] = ()
    """Never in the file: whoever reads it takes them from what is signed of it, by `revocations_in`."""

    def concerns(self, site: str, line: str, device: str) -> bool:
        """Whether this device is meant."""
        wanted = ((site, self.audience.sites), (line, self.audience.lines), (device, self.audience.devices))
        return all(any(fnmatchcase(name, pattern) for pattern in patterns) for name, patterns in wanted)


def revocations_in(custom: Any) -> tuple[Revocation, ...]:
    """Of a channel's target. Words only: what cannot be read is left out; what must not run says `Rollout.revoked`."""
    said = custom.get(REVOCATIONS) if isinstance(custom, dict) else None
    found = []
    for one in said[:1000] if isinstance(said, list) else ():
        try:
            found.append(Revocation.model_validate_json(json.dumps(one)))
        except ValidationError:
            continue
    return tuple(found)


def custom_of(revocations: Iterable[Revocation]) -> dict[str, Any]:
    """`custom` of the target of a channel that says so."""
    return {REVOCATIONS: [one.model_dump(mode="json") for one in revocations]}


VersionOrder: TypeAlias = "tuple[int, int, int, bool, tuple[tuple[bool, int, str], ...]]"


def version_order(version: str) -> VersionOrder:
    """By what plant and devices alike sort versions: 1.0.0-1 < 1.0.0-rc < 1.0.0-rc.2 < 1.0.0-rc.10 < 1.0.0.

    Semantic Versioning 2.0.0, item 11: https://semver.org. Raises ValueError for what is no ModelVersion.
    """
    if re.fullmatch(VERSION_PATTERN, version) is None:
        raise ValueError(f"{version[:80]!r} is no version")
    core, _, early = version.partition("-")
    major, minor, patch = map(int, core.split("."))
    words = early.split(".") if early else ()
    order = tuple((False, int(one), "") if one.isdigit() else (True, 0, one) for one in words)
    return major, minor, patch, not early, order


def file_target(product: str, name: str, version: str, file: str) -> str:
    """The TUF target path of one file of a package."""
    return f"{product}/{name}/{version}/{file}"


def channel_target(product: str, channel: str) -> str:
    """The TUF target path of a channel's rollout."""
    return f"{product}/{CHANNELS}/{channel}.json"
