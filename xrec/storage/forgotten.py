"""The list of forgotten people: keyed hashes of the IDs of users whom later jobs leave out.

    <workspace>/forgotten/key              32 random bytes, created once
    <workspace>/forgotten/people/<hash>    created once per person; contains the time

A hash is the HMAC-SHA256 of an ID and reveals nothing without the key. Anyone who can read both can
check whether a known ID is on the list.
"""

import hmac
import re
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from xrec.config import JobConfig
from xrec.errors import ArtifactMismatchError, StorageNotFoundError
from xrec.storage.requests import request_each
from xrec.storage.uri import location_of

FORGOTTEN = "forgotten"
"""The list's folder in the workspace, and the reason recorded for rows that are left out."""
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Forgotten:
    """The hashes of people's IDs under one key; falsy if there are none."""

    key: bytes = b""
    hashes: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.hashes)

    def hash_of(self, user_id: str) -> str:
        """Return the hash of an ID."""
        return hmac.digest(self.key, user_id.encode("utf-8", "surrogatepass"), "sha256").hex()

    def has(self, user_id: str) -> bool:
        """Return whether the hash of an ID is in `hashes`."""
        return bool(self.hashes) and self.hash_of(user_id) in self.hashes

    def among(self, user_ids: Any) -> list[str]:
        """Return the distinct IDs in an Arrow array whose hashes are in `hashes`."""
        return [user for user in user_ids.unique().to_pylist() if user and self.has(user)]

    def mask(self, user_ids: Any) -> Any:
        """Return a Boolean Arrow array: whether the hash of each ID in an array is in `hashes`."""
        return pc.is_in(user_ids, value_set=pa.array(self.among(user_ids), user_ids.type))

    def without(self, rows: pa.Table) -> pa.Table:
        """Return the rows whose `user_id` is not in `hashes`; all rows if there is no `user_id`."""
        if not self or "user_id" not in rows.column_names:
            return rows
        return rows.filter(pc.invert(self.mask(rows["user_id"])))

    def without_texts(self, findings: Iterable[Any]) -> list[Any]:
        """Return findings (xrec.data).

        If anyone is listed, the findings have no texts, because texts may name people.
        """
        return [replace(finding, text="") if self else finding for finding in findings]


def read_forgotten(config: JobConfig) -> Forgotten:
    """Return the workspace's list.

    Raises ArtifactMismatchError if its key is missing, and StorageError if the store fails.
    """
    folder = location_of(config, FORGOTTEN)
    if not (hashes := frozenset(filter(_HASH.fullmatch, (folder / "people").sizes()))):
        return Forgotten()
    try:
        return Forgotten((folder / "key").read_bytes(), hashes)
    except StorageNotFoundError as error:
        raise ArtifactMismatchError(
            f"{folder / 'key'} is missing, so forgotten people cannot be recognized; restore it "
            "from a copy, or delete the folder and forget all of these people again",
            code="key_gone",
            key=str(folder / "key"),
        ) from error


def open_list(config: JobConfig) -> Forgotten:
    """Return the list with its key, which is created if there is none; see `read_forgotten`."""
    listed, key = read_forgotten(config), location_of(config, FORGOTTEN) / "key"
    if not listed.key:
        key.create_bytes(secrets.token_bytes(32))
    return listed if listed.key else Forgotten(key.read_bytes())


def put_on_list(config: JobConfig, user_ids: Collection[str]) -> Forgotten:
    """Add people to the workspace's list and return the list; raise as `read_forgotten` does."""
    folder = location_of(config, FORGOTTEN)
    listed = open_list(config) if user_ids else read_forgotten(config)
    now = datetime.now(UTC).isoformat(timespec="seconds").encode()
    new = {listed.hash_of(user) for user in user_ids} - listed.hashes
    list(request_each(lambda name: (folder / "people" / name).create_bytes(now), new))
    return Forgotten(listed.key, listed.hashes | new)
