"""What a caller of xrec can handle, as one tree.

XRecError
├── ConfigError          a config file, key or value is wrong               (exit code 2)
├── DataError            input data is broken beyond the configured threshold
│   └── GateError                a run is done, and may not be published   (exit code 3)
├── UnknownIdError       a user or item id that the dataset does not hold
├── StorageError         a URI cannot be used
│   ├── StorageAccessError       credentials or permissions are refused
│   ├── StorageNotFoundError     the bucket, folder or file is not there
│   └── StorageUnreachableError  the endpoint does not answer
├── ArtifactError        an artifact cannot be used
│   ├── ArtifactNotFoundError    no manifest at the URI: never made, or not finished
│   └── ArtifactMismatchError    it was made from something else, or belongs to another run
├── LeaseError           another driver runs this very job
├── TableError           a table cannot be used, or something else was published meanwhile
├── ModelError           the language model cannot be loaded or adapted
├── EndpointError        an endpoint cannot be used, a language model's or ours
│   ├── EndpointAccessError      the key is refused, or its quota is used up
│   └── EndpointUnreachableError the endpoint answers to nothing, or asks to wait for too long
├── BudgetError          a job has spent what it may spend of time or tokens        (exit code 4)
├── TrainingError        training stopped: NaN loss, a lost worker
└── ClusterError         the Ray cluster cannot be reached, or a submitted job failed

`ValueError` stays for a bad argument in a call, `assert` for xrec's own invariants.
A message says what is wrong, the value seen, what was expected, and what to do. Programs and tests
look at `code`, `key` and `saw` instead, which stay when a message is reworded.
"""

import importlib.metadata
import shlex
from collections.abc import Mapping
from typing import Any


class XRecError(Exception):
    """Base of all errors that xrec expects; the CLI prints them without a traceback.

    Attributes:
        code: What went wrong, as a short name such as `lease_held`. It does not change when the
            message does.
        key: The config key, column, file or id at fault; empty if none is.
        saw: The value seen there, or None. Never a secret, and never a person's text.
    """

    exit_code = 1  # of a command that ends with the error
    metrics: Mapping[str, Any] = {}
    """Of the job that ends with it, as in a manifest: its costs, what its gate saw."""

    # All but the message have defaults, because that is all that unpickling passes.
    def __init__(self, message: str, *, code: str = "", key: str = "", saw: Any = None):
        super().__init__(message)
        self.code, self.key, self.saw = code, key, saw


class ConfigError(XRecError):
    """A config file, key or value is wrong.

    If several keys are wrong, `problems` has the code of each, and `key` is the first of them.
    """

    exit_code = 2
    problems: Mapping[str, str] = {}


class DataError(XRecError):
    """Input data is missing, malformed, or broken beyond the configured threshold."""


class GateError(DataError):
    """What a run made is not good enough, or was taken back: it stays, and is not published."""

    exit_code = 3


class UnknownIdError(XRecError):
    """An id that the dataset does not hold; `reason` is unknown_user or unknown_item."""

    def __init__(self, message: str, what: str = "id", *, saw: Any = None):
        super().__init__(message, code=f"unknown_{what}", key=f"{what}_id", saw=saw)
        self.reason = self.code


class StorageError(XRecError):
    """A URI cannot be used."""


class StorageAccessError(StorageError):
    """Credentials or permissions are refused."""


class StorageNotFoundError(StorageError):
    """The bucket, folder or file is not there."""


class StorageUnreachableError(StorageError):
    """The endpoint does not answer."""


class ArtifactError(XRecError):
    """An artifact cannot be used."""


class ArtifactNotFoundError(ArtifactError):
    """No manifest at the URI: the artifact was never made, or its job did not finish."""


class ArtifactMismatchError(ArtifactError):
    """The artifact was made from something else, or the URI belongs to another run."""


class LeaseError(XRecError):
    """Another driver runs this very job, or planned it anew."""


class TableError(XRecError):
    """A table cannot be used, or something else was published to it meanwhile."""


class ModelError(XRecError):
    """The language model cannot be loaded or adapted."""


class EndpointError(XRecError):
    """An endpoint cannot be used: a language model's, where no prompt is to blame, or ours."""


class EndpointAccessError(EndpointError):
    """The endpoint refuses the key, or the key's quota is used up."""


class EndpointUnreachableError(EndpointError):
    """The endpoint answers to nothing, or asks to wait for too long."""


class BudgetError(XRecError):
    """A job has spent what it may spend; what is done stays, and a later start goes on."""

    exit_code = 4


class TrainingError(XRecError):
    """Training stopped: the loss is not a number, or workers were lost for good."""


class ClusterError(XRecError):
    """The Ray cluster cannot be reached, or a submitted job failed."""


def packages_of(extra: str | None = None) -> list[str]:
    """The packages that xrec requires, or those of an extra: `name>=version` each."""
    try:
        lines = [each.partition(";") for each in importlib.metadata.requires("xrec") or []]
    except importlib.metadata.PackageNotFoundError:
        return []
    wanted = "" if extra is None else f'extra == "{extra}"'
    return [name for name, _, when in lines if (wanted in when if wanted else "extra" not in when)]


def install_command(extra: str) -> str:
    """What installs the packages of an extra, by their own names: xrec is on no package index."""
    return f"pip install {shlex.join(packages_of(extra)) or f'(the extra {extra} of xrec)'}"
