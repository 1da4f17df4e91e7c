"""Where messages live: seven topics a device, and nothing else.

    inspect/v1/<site>/<line>/<device>/ +
      defect     device -> plant   QoS 1             DefectReport: a part that was NG or could not be judged
      state      device -> plant   QoS 1, retained   DeviceState; the last will says `offline`
      vitals     device -> plant   QoS 0             Vitals: counts since start, every few seconds
      ack        plant -> device   QoS 1             Ack: these reports are in the database
      resync     plant -> device   QoS 1             Resync: send these reports again
      gone       device -> plant   QoS 1             Gone: asked for in a resync, but not here any more
      desired    plant -> device   QoS 1, retained   Desired: a pointer to a model rollout

1. A name is 1-40 characters of `A-Z a-z 0-9 . _ -` and begins with a letter or digit: it can be a topic level, a file
   name and a certificate's common name without any quoting, and never holds `+`, `#`, `/` or `$`.
2. `Topics.parse(topic)` gives back exactly what `Topics` was built from, or raises ValueError.

    >>> Topics("plant1", "press-4", "edge-0017").defect
    'inspect/v1/plant1/press-4/edge-0017/defect'
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PREFIX = "inspect/v1"
LEAVES = ("defect", "state", "vitals", "ack", "resync", "gone", "desired")
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


def checked_name(what: str, name: str) -> str:
    """Give `name` back if it can be a topic level, else raise ValueError with one line that says what is allowed."""
    if _NAME.fullmatch(name) is None:
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise ValueError(f"{what} {shown!r} is not a name: 1-40 of A-Z a-z 0-9 . _ - beginning with a letter or digit")
    return name


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one device. Raises ValueError for a name that cannot be a topic level."""

    site: str
    line: str
    device: str

    def __post_init__(self) -> None:
        for what in ("site", "line", "device"):
            checked_name(what, getattr(self, what))

    @classmethod
    def parse(cls, topic: str) -> tuple[Topics, str]:
        """Split a topic into its device and its last level (one of LEAVES). Raises ValueError for anything else."""
        levels = topic.split("/")
        if len(levels) != 6 or "/".join(levels[:2]) != PREFIX or levels[5] not in LEAVES:
            raise ValueError(f"not one of our topics: {topic[:200]!r}")
        return cls(levels[2], levels[3], levels[4]), levels[5]

    @property
    def base(self) -> str:
        return f"{PREFIX}/{self.site}/{self.line}/{self.device}"

    @property
    def defect(self) -> str:
        return f"{self.base}/defect"

    @property
    def state(self) -> str:
        return f"{self.base}/state"

    @property
    def vitals(self) -> str:
        return f"{self.base}/vitals"

    @property
    def ack(self) -> str:
        return f"{self.base}/ack"

    @property
    def resync(self) -> str:
        return f"{self.base}/resync"

    @property
    def gone(self) -> str:
        return f"{self.base}/gone"

    @property
    def desired(self) -> str:
        return f"{self.base}/desired"


def subscription(leaf: str, *, site: str | None = None, line: str | None = None, device: str | None = None) -> str:
    """The topic filter for `leaf` of all devices, or only of those of a site, line or device.

    Raises ValueError for a leaf that does not exist or a name that cannot be a topic level.
    """
    if leaf not in LEAVES:
        raise ValueError(f"no topic ends in {leaf!r}; there are {', '.join(LEAVES)}")
    named = {"site": site, "line": line, "device": device}
    levels = ["+" if name is None else checked_name(what, name) for what, name in named.items()]
    return "/".join([PREFIX, *levels, leaf])
