"""What is in a workspace, whatever its folders are called: artifacts, tables, and other files."""

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from xrec.errors import ArtifactMismatchError
from xrec.storage import (
    AT_WORK,
    CHECKPOINTS,
    DELETING,
    FORGOTTEN,
    MANIFEST,
    RUN_RECORD,
    VERSION,
    Forgotten,
    Kind,
    Location,
    Manifest,
    storage_errors,
)

_RECORDS = re.compile(
    rf"(?:{FORGOTTEN}|{AT_WORK}|replies|live-money)/.+|nights/\d+/(?:night\.json|costs\.json|report\.html)"
)
"""Files of a workspace that are in no artifact, and have no ID."""
_OF_TABLE = re.compile(r"(.+)/(?:_delta_log|_xrec)/.+")
_OF_ARTIFACT = re.compile(
    rf"(.+?)/(?:{re.escape(MANIFEST)}|{DELETING}|{re.escape(RUN_RECORD)}|{CHECKPOINTS}/.+)"
)
_BY_NAME = re.compile(rf"((?:nights/\d+/)?(?:{'|'.join(get_args(Kind))}))/.+")


@dataclass(frozen=True)
class Place:
    """An artifact, finished or not, a table with its runs, or a folder with other files.

    Or earlier versions of a workspace's files, which the store keeps (kind versions).

    folder: its path below the workspace. files: their paths below the place.
    """

    location: Location
    folder: str
    kind: Kind | Literal["table", "other", "versions"]
    files: tuple[str, ...]
    manifest: Manifest | None = None

    @property
    def is_being_deleted(self) -> bool:
        """Whether an interrupted command left it half deleted."""
        return DELETING in self.files

    @cached_property
    def with_ids(self) -> tuple[str, ...]:
        """The Parquet files with a column `user_id`."""
        return tuple(name for name in self.files if _has_ids(self.location / name))

    def users_in(self, name: str, among: Callable[[Any], Iterable[str]]) -> set[str]:
        """Return the users in a file of `with_ids` that `among` finds in an array of IDs."""
        file, found = self.location / name, set[str]()
        with (
            storage_errors(file.uri),
            pq.ParquetFile(file.path, filesystem=file.arrow_filesystem()) as opened,
        ):
            for batch in opened.iter_batches(columns=["user_id"]):
                found.update(among(batch["user_id"]))
        return found

    def people(self, people: Forgotten) -> set[str]:
        """Return which of the people are in any of its files."""
        return set[str]().union(*(self.users_in(name, people.among) for name in self.with_ids))


def places_in(workspace: Location) -> list[Place]:
    """Return all places of a workspace, in the order of their folders.

    An artifact or table inside another one belongs to it.
    """
    files = [name for name in workspace.files() if not _RECORDS.fullmatch(name)]
    tables = {match[1] for match in map(_OF_TABLE.fullmatch, files) if match}
    roots = tables | {match[1] for match in map(_OF_ARTIFACT.fullmatch, files) if match}
    roots |= {match[1] for match in map(_BY_NAME.fullmatch, files) if match}
    by_folder = dict[str, list[str]]()
    for name in files:
        parents = [str(path) for path in PurePosixPath(name).parents]
        root = next((folder for folder in reversed(parents) if folder in roots), parents[0])
        by_folder.setdefault("" if root == "." else root, []).append(name)
    return list(_places(workspace, by_folder, tables))


def _places(
    workspace: Location, by_folder: dict[str, list[str]], tables: set[str]
) -> Iterator[Place]:
    for folder, names in sorted(by_folder.items()):
        location = workspace / folder if folder else workspace
        inside = tuple(name.removeprefix(f"{folder}/") for name in names)
        manifest = None
        if MANIFEST in inside:
            with suppress(ArtifactMismatchError):  # not xrec's, or an older xrec's
                manifest = Manifest.read(location / MANIFEST)
        kind: Kind | Literal["table", "other"] = "other"
        if manifest is not None:
            kind = manifest.kind
        elif (name := PurePosixPath(folder).name) in get_args(Kind) and MANIFEST not in inside:
            kind = name  # type: ignore[assignment]
        has_runs = any(name.startswith("_xrec/") for name in inside)
        if folder in tables and has_runs and kind in ("other", "explanations"):
            kind = "table"
        yield Place(location, folder, kind, inside, manifest)


def _has_ids(file: Location) -> bool:
    if not file.name.partition(VERSION)[0].endswith(".parquet"):
        return False
    with storage_errors(file.uri), suppress(pa.ArrowInvalid):  # not Parquet after all
        return "user_id" in pq.read_schema(file.path, filesystem=file.arrow_filesystem()).names
    return False
