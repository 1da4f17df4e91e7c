"""Every error of the cloud side that a person may see; `str()` is one line: what, where, found, allowed.

Each has a stable `code`, meant for machines: of its class, or its own. The command line ends with it, in brackets.

CloudError
  BadDataset        a data set that must not be trained on or measured with: names the file and the line
  BadTraining       settings with which no training makes sense
  BadWeights        weights that cannot be used: missing, not from this family, another set of classes
  BadPackage        a model package that cannot be built from what was given
  TrainingMissing   the extra `train` is not installed
  CloudMissing      the extra `cloud` is not installed
  BadRange          64: numbers of reports that are no FIRST-LAST
  BadSettings       78: the settings: file or variable, key, found, allowed
  BadDatabase       78: a database that must not be used: newer than this program, or no such kind
  BrokerGone        no MQTT broker, or it does not let us do our work; the ingester tries for ever
  DatabaseGone      the database is stopped, locked, full or out of reach; the ingester tries for ever
  NotFound          what was asked for is not in the database
  ReleaseMissing    tuf, securesystemslib or fsspec is not installed; the message names the extra
  BadRelease        a repository, change or package that must not be published; has a stable `code`
  BadKey            a signing key that cannot be used for this; has a stable `code`
  StoreGone         where releases lie is full, locked, read-only or out of reach; the same command may be repeated
"""

from __future__ import annotations


class CloudError(Exception):
    exit_code = 1
    code = "failed"


class BadDataset(CloudError):
    """A data set that must not be trained on or measured with."""

    code = "bad-dataset"


class BadTraining(CloudError):
    exit_code = 64
    code = "bad-training"


class BadWeights(CloudError):
    """Weights that cannot be used."""

    code = "bad-weights"


class BadPackage(CloudError):
    """A model package that cannot be built from what was given; `code` is the gate's where that refused a file."""

    code = "bad-package"

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(f"{message} [{code}]" if code else message)
        self.code = code or self.code


class TrainingMissing(CloudError):
    """torch or ultralytics is not installed; the message names the extra."""

    code = "extra-missing"


class CloudMissing(CloudError):
    """aiomqtt, alembic or sqlalchemy is not installed; the message names the extra."""

    code = "extra-missing"


class BadRange(CloudError):
    exit_code = 64
    code = "bad-range"


class BadSettings(CloudError):
    exit_code = 78
    code = "bad-settings"


class BadDatabase(CloudError):
    exit_code = 78
    code = "bad-database"


class BrokerGone(CloudError):
    """No MQTT broker, or one that does not let us do our work."""

    code = "broker-gone"


class DatabaseGone(CloudError):
    """The database cannot be used now; nothing of the transaction is in it for sure."""

    code = "database-gone"


class NotFound(CloudError):
    """What was asked for is not in the database."""

    code = "not-found"


class ReleaseMissing(CloudError):
    """tuf, securesystemslib or fsspec is not installed; the message names the extra."""

    code = "extra-missing"


class _Coded(CloudError):
    """`code` is stable and meant for machines; it ends the line in brackets."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code


class BadRelease(_Coded):
    """A repository, change or package that must not be published, e.g. `same-version-other-bytes`."""


class BadKey(_Coded):
    """A signing key that cannot be used for this, e.g. `key-not-of-role`."""


class StoreGone(_Coded):
    """Where releases lie is full, locked, read-only or out of reach, e.g. `disk-full`, `locked`."""
