"""All errors that a caller of xrec can handle, as one tree.

XRecError
├── ConfigError          a config file, key, or value is wrong              (exit code 2)
├── DataError            input data is broken beyond the configured threshold
│   └── GateError                the gate refused a finished run           (exit code 3)
├── UnknownIdError       a user or item ID that is not in the dataset
├── StorageError         a URI cannot be used
│   ├── StorageAccessError       credentials or permissions are refused
│   ├── StorageNotFoundError     the bucket, folder, or file does not exist
│   └── StorageUnreachableError  the endpoint does not respond
├── ArtifactError        an artifact cannot be used
│   ├── ArtifactNotFoundError    no manifest at the URI: never made, or not finished
│   └── ArtifactMismatchError    it was made from other inputs, or belongs to another run
├── LeaseError           another driver runs the same job
├── TableError           a table cannot be used, or another writer published first
├── ModelError           the language model cannot be loaded or adapted
├── EndpointError        an endpoint of a language model or of xrec cannot be used
│   ├── EndpointAccessError      the key is refused, or its quota is used up
│   └── EndpointUnreachableError the endpoint does not respond, or asks for too long a wait
├── BudgetError          a job has used up its time, tokens, or money       (exit code 4)
├── TrainingError        training stopped: NaN loss, a lost worker
└── ClusterError         the Ray cluster cannot be reached, or a submitted job failed

`ValueError` is for invalid arguments, `assert` for xrec's own invariants. A message says
what is wrong, the value seen, what was expected, and what to do. Programs and tests check `code`,
`key`, and `saw` instead, which do not change when a message is reworded.
"""

import importlib.metadata
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Failure:
    """Why one row has no text, or why its text cannot be used; other rows are not affected.

    Attributes:
        reason: One of the reasons of the job, such as `timeout` or `unsupported` (xrec.config).
        message: For people. It never contains an endpoint's key.
        words: The words of the text that are to blame, if any.
        reply: What a language model had written, if that is kept.
    """

    reason: str
    message: str
    words: tuple[str, ...] = ()
    reply: str = ""


class XRecError(Exception):
    """Base class of the errors that xrec expects; the CLI prints them without a traceback.

    Attributes:
        code: What went wrong, as a short name such as `lease_held`.
        key: The config key, column, file, or ID at fault, or "".
        saw: The value seen there, or None. Never a secret, and never a person's text.
    """

    exit_code = 1
    """Exit code of a command that ends with the error."""
    metrics: Mapping[str, Any] = {}
    """Metrics of the job that failed, as in a manifest, such as its costs or the gate's results."""

    # Unpickling passes only the message, so the other arguments have defaults.
    def __init__(self, message: str, *, code: str = "", key: str = "", saw: Any = None):
        super().__init__(message)
        self.code, self.key, self.saw = code, key, saw


class ConfigError(XRecError):
    """A config file, key, or value is wrong.

    If several keys are wrong, `problems` maps each to its code, and `key` is the first one.
    """

    exit_code = 2
    problems: Mapping[str, str] = {}


class DataError(XRecError):
    """Input data is missing, malformed, or broken beyond the configured threshold."""


class GateError(DataError):
    """The gate refused this run, or it was rolled back. Its results are kept but not published."""

    exit_code = 3


class UnknownIdError(XRecError):
    """An ID that is not in the dataset; `reason` is unknown_user or unknown_item."""

    def __init__(self, message: str, what: str = "id", *, saw: Any = None):
        super().__init__(message, code=f"unknown_{what}", key=f"{what}_id", saw=saw)
        self.reason = self.code


class StorageError(XRecError):
    """A URI cannot be used."""


class StorageAccessError(StorageError):
    """Credentials or permissions are refused."""


class StorageNotFoundError(StorageError):
    """The bucket, folder, or file does not exist."""


class StorageUnreachableError(StorageError):
    """The endpoint does not respond."""


class ArtifactError(XRecError):
    """An artifact cannot be used."""


class ArtifactNotFoundError(ArtifactError):
    """There is no manifest at the URI: the artifact was never made, or its job did not finish."""


class ArtifactMismatchError(ArtifactError):
    """The artifact was made from other inputs, or the URI belongs to another run."""


class LeaseError(XRecError):
    """Another driver runs the same job, or has replaced its plan."""


class TableError(XRecError):
    """A table cannot be used, or another writer published to it first."""


class ModelError(XRecError):
    """The language model cannot be loaded or adapted."""


class EndpointError(XRecError):
    """An endpoint cannot be used: a language model's, for any prompt, or one of xrec."""


class EndpointAccessError(EndpointError):
    """The endpoint refuses the key, or the key's quota is used up."""


class EndpointUnreachableError(EndpointError):
    """The endpoint does not respond, or asks for too long a wait."""


class BudgetError(XRecError):
    """A job has used up its budget; finished work is kept, and the next start continues."""

    exit_code = 4


class TrainingError(XRecError):
    """Training stopped: the loss is NaN, or lost workers could not be replaced."""


class ClusterError(XRecError):
    """The Ray cluster cannot be reached, or a submitted job failed."""


def packages_of(extra: str | None = None) -> list[str]:
    """Return the requirements of xrec, or of an extra, as `name>=version`."""
    try:
        lines = [each.partition(";") for each in importlib.metadata.requires("xrec") or []]
    except importlib.metadata.PackageNotFoundError:
        return []
    wanted = "" if extra is None else f'extra == "{extra}"'
    return [name for name, _, when in lines if (wanted in when if wanted else "extra" not in when)]


def install_command(extra: str) -> str:
    """Return the command that installs an extra's packages; xrec itself is not on PyPI."""
    return f"pip install {shlex.join(packages_of(extra)) or f'(the extra {extra} of xrec)'}"


def first_line_of(error: BaseException) -> str:
    """Return the first line of the error's message; some libraries add pages of XML or SQL."""
    return str(error).partition("\n")[0] or type(error).__name__
