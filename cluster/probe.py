"""What one node of a cluster finds out about itself before a job: its versions, and whether it can use the job's URIs.

Runs as a Ray task on each node, and as a plain call on the driver. A local path is shared if a file that the driver put there is seen.
"""

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from xrec.config.shared import StorageConfig
from xrec.errors import StorageNotFoundError, XRecError
from xrec.storage import MANIFEST, Location, open_location

_PACKAGES = ("ray", "torch", "xrec")


@dataclass(frozen=True)
class Problem:
    """What is wrong on a node, as the rest of a sentence that begins with it."""

    kind: Literal["version", "unshared", "storage"]
    text: str


@dataclass(frozen=True)
class Probe:
    """A node's answer: name to version, and what is wrong with the URIs."""

    versions: Mapping[str, str]
    problems: tuple[Problem, ...]


def versions() -> dict[str, str]:
    """Python, Ray, torch and xrec as this process would import them, without builds: torch of a GPU node is 2.13.0+cu130, of another 2.13.0+cpu."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name).split("+")[0] for name in _PACKAGES},
    }


def probe(
    node_id: str, reads: Sequence[str], writes: Sequence[str], storage: StorageConfig, nonce: str
) -> Probe:
    """Look for the driver's file below each URI of `writes`, write one there, read it, delete it; look for a manifest at each of `reads`."""
    problems = [_problem_of_writing(open_location(uri, storage), node_id, nonce) for uri in writes]
    problems += [_problem_of_reading(open_location(uri, storage)) for uri in reads]
    return Probe(versions(), tuple(problem for problem in problems if problem))


def driver_file(location: Location, nonce: str) -> Location:
    """Where the driver's own file lies while the nodes are asked."""
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


def _problem_of_reading(location: Location) -> Problem | None:
    try:
        is_there = (location / MANIFEST).exists() or (
            location / "config.json"
        ).exists()  # an artifact, or a model
    except XRecError as error:
        return Problem("storage", f"cannot read {location} ({error})")
    return (
        None if is_there else Problem("unshared", f"does not see {location}, which the driver sees")
    )
