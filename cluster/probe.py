"""What one node reports about itself before a job: its versions, and whether it can use the URIs.

`probe` runs as a Ray task on each node. A local path is shared if the node sees a file that the
driver wrote there.
"""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import xrec
from xrec.config.shared import StorageConfig
from xrec.errors import StorageNotFoundError, XRecError
from xrec.storage import MANIFEST, Location, open_location

_PACKAGES = ("ray", "torch")


@dataclass(frozen=True)
class Problem:
    """What is wrong on a node.

    `text` completes a sentence that begins with "the node at ADDRESS".
    """

    kind: Literal["version", "unshared", "storage"]
    text: str


@dataclass(frozen=True)
class Probe:
    """A node's answer: the version of each package by name, and the problems with the URIs."""

    versions: Mapping[str, str]
    problems: tuple[Problem, ...]


def versions() -> dict[str, str]:
    """Return the versions of Python, Ray, torch and xrec that this process would import.

    Build tags are left out: torch is 2.13.0+cu130 on a node with a GPU and 2.13.0+cpu on others.
    """
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name).split("+")[0] for name in _PACKAGES},
        "xrec": xrec.__version__,  # a job may bring its code along, uninstalled
    }


def probe(
    node_id: str, reads: Sequence[str], writes: Sequence[str], storage: StorageConfig, nonce: str
) -> Probe:
    """Report this node's versions, and what it cannot do with the URIs.

    Below each URI of `writes` it looks for the driver's file, and writes, reads and deletes a file
    of its own. At each URI of `reads` it looks for a manifest, or for the config of a model.
    """
    problems = [_problem_of_writing(open_location(uri, storage), node_id, nonce) for uri in writes]
    problems += [_problem_of_reading(open_location(uri, storage)) for uri in reads]
    return Probe(versions(), tuple(problem for problem in problems if problem))


def driver_file(location: Location, nonce: str) -> Location:
    """Return where the driver's file lies while the nodes are asked."""
    return location / f".xrec-preflight-{nonce}"


def _problem_of_writing(location: Location, node_id: str, nonce: str) -> Problem | None:
    own = location / f".xrec-preflight-{nonce}-{node_id}"
    try:
        if driver_file(location, nonce).read_bytes() != nonce.encode():
            return Problem("unshared", f"sees another file than the driver wrote in {location}")
        own.write_bytes(nonce.encode())
        own.read_bytes()
        own.delete()
    except StorageNotFoundError:
        return Problem("unshared", f"does not see what the driver wrote in {location}")
    except XRecError as error:
        return Problem("storage", f"cannot write to {location} ({error})")
    return None


def _is_artifact_or_model(location: Location) -> bool:
    return any((location / name).exists() for name in (MANIFEST, "config.json"))


def _is_table(location: Location) -> bool:
    """Whether it is a Parquet file or a folder of some, as `pairs` of a job may be."""
    return location.is_file() or any(name.endswith(".parquet") for name in location.files())


def _problem_of_reading(location: Location) -> Problem | None:
    try:
        is_there = _is_artifact_or_model(location) or _is_table(location)
    except XRecError as error:
        return Problem("storage", f"cannot read {location} ({error})")
    if is_there:
        return None
    return Problem("unshared", f"does not see {location}, which the driver sees")
