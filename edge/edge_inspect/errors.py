"""Every error the edge knows, in three families.

    (built in)  RuntimeError, ValueError, assert     ours: a bug; the process crashes and systemd restarts it
    InspectError
      World                                          the outside world: retried for ever by the one loop that owns it
        CameraLost                                   no pictures: unplugged, stalled, connection cut
          FormatChanged                              the camera now gives another picture size than the ring holds
        BrokerGone                                   no MQTT broker
        StorageFailing                               the disk is full, read-only or broken
          NoSpace                                    not enough room for what is to come; nothing was written
          Busy                                       another process writes there
        ShadowHangs                                  a model beside does not answer; nothing else can be tried meanwhile
        Ending                                       this process ends; what was asked for was not done
        SourceGone                                   the repository of models cannot be reached; carries a `code`
      Refusal                                        never retried: one clear line, an exit code
        Usage             64                         the command line does not make sense
        BadConfig         78                         configuration or recipe: file, key, found, allowed
        InUse             75                         another daemon owns what one may own; can be tried later
        BadSource          1                         a camera or file that can never give pictures
        BadModel           1                         a model package that must not run; carries a stable `code`
        Untrusted          1                         what the repository serves cannot be trusted; carries a `code`
        ProviderMissing    1                         the execution provider that was asked for is not there
        RuntimeMissing     1                         no onnxruntime installed; names the extra to add

Foreign exceptions become one of these where the foreign library ends, `from err`.
A message is one line: what, where, what was found, what is allowed.
"""

from __future__ import annotations


class InspectError(Exception):
    """Base of all errors that a user may see; `str()` is one line for a person."""

    exit_code = 1
    code: str = ""
    """Stable and meant for machines; empty where an error has none of its own. See `code_of`."""


class World(InspectError):
    """The outside world failed; the loop that owns the resource retries with back-off."""


class CameraLost(World):
    """No pictures come any more; reopen with back-off."""


class FormatChanged(CameraLost):
    """The camera changed its picture size; nothing was written to the slot."""


class BrokerGone(World):
    """The MQTT broker cannot be reached or refused us for now."""


class StorageFailing(World):
    """The disk is full, read-only or broken; the last write is not on disk."""

    code = "storage-failing"


class NoSpace(StorageFailing):
    """There is not enough room for what is to come; nothing of it was written."""

    code = "no-space"


class Busy(StorageFailing):
    """Another process is at work where only one may write; it is tried again."""

    code = "folder-busy"


class SourceGone(World):
    """The repository of models cannot be reached or does not deliver; `code` is stable, e.g. `stalled`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code


class ShadowHangs(World):
    """The thread in which a model judges beside another does not come back from it."""

    code = "shadow-hangs"


class Ending(World):
    """This process ends: what was asked of it was not done, and can be asked again of the next one."""


class Refusal(InspectError):
    """What was asked for cannot be done and trying again would not help."""


class Usage(Refusal):
    exit_code = 64


class BadConfig(Refusal):
    exit_code = 78


class InUse(Refusal):
    """Another daemon works with what only one may; a service waits for it to end, whoever else is told and ends."""

    exit_code = 75


class BadSource(Refusal):
    """A source that can never give pictures: missing file, not a video, no permission."""


class BadSourceOption(BadSource):
    """An option in the source's own words that it does not have or cannot take."""

    exit_code = 64


class BadModel(Refusal):
    """A model package that must not run. `code` is stable and meant for machines, e.g. `digest-mismatch`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code


class Untrusted(Refusal):
    """What the repository serves cannot be trusted, or not now. `code` is stable, e.g. `metadata-expired`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code


class ProviderMissing(Refusal):
    """The execution provider that was asked for is not available or silently fell back."""


class RuntimeMissing(Refusal):
    """onnxruntime is not installed."""


def code_of(err: InspectError) -> str:
    """As the update's state, history and trouble name it: its own code, or what stands for those that have none."""
    return err.code or "failed"
