"""People who are forgotten: a list of keyed hashes that keeps them out of what is made later.

    <workspace>/forgotten/key              32 random bytes, created once
    <workspace>/forgotten/people/<hash>    created once for each person; its content is the time

A hash is the HMAC-SHA256 of an id, which tells nothing without the key. Who may read both can find
out whether an id that they know is on the list.
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
from xrec.storage.location import request_each
from xrec.storage.uri import location_of

LIST = "forgotten"
"""The folder of the list in the workspace, and the reason for which a row is left out."""
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Forgotten:
    """The hashes of some people's ids, by one key; it is false without any."""

    key: bytes = b""
    hashes: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.hashes)

    def hash_of(self, user_id: str) -> str:
        return hmac.digest(self.key, user_id.encode("utf-8", "surrogatepass"), "sha256").hex()

    def has(self, user_id: str) -> bool:
        return bool(self.hashes) and self.hash_of(user_id) in self.hashes

    def among(self, user_ids: Any) -> list[str]:
        """Those of an arrow array's ids that are theirs; each is hashed once."""
        return [each for each in user_ids.unique().to_pylist() if each and self.has(each)]

    def mask(self, user_ids: Any) -> Any:
        """Whether each of an arrow array's ids is one of theirs, as such an array."""
        return pc.is_in(user_ids, value_set=pa.array(self.among(user_ids), user_ids.type))

    def without(self, rows: pa.Table) -> pa.Table:
        """The rows whose `user_id` is none of theirs; all without that column."""
        if not self or "user_id" not in rows.column_names:
            return rows
        return rows.filter(pc.invert(self.mask(rows["user_id"])))

    def untold(self, findings: Iterable[Any]) -> list[Any]:
        """Findings (xrec.data.source) without their texts, which may name them; all, if nobody."""
        return [replace(each, text="") if self else each for each in findings]


def read_forgotten(config: JobConfig) -> Forgotten:
    """The list of the workspace; raises ArtifactMismatchError if its key is gone, StorageError."""
    folder = location_of(config, LIST)
    if not (hashes := frozenset(filter(_HASH.fullmatch, (folder / "people").sizes()))):
        return Forgotten()
    try:
        return Forgotten((folder / "key").read_bytes(), hashes)
    except StorageNotFoundError as error:
        raise ArtifactMismatchError(
            f"{folder / 'key'} is gone, so the list of forgotten people cannot be heeded: put it "
            "back from a copy; or delete the folder, and forget them all again",
            code="key_gone",
            key=str(folder / "key"),
        ) from error


def put_on_list(config: JobConfig, user_ids: Collection[str]) -> Forgotten:
    """Put people on the list, and return all of it; raises as `read_forgotten` does."""
    folder, there = location_of(config, LIST), read_forgotten(config)
    if user_ids:
        (folder / "key").create_bytes(secrets.token_bytes(32))
        there = Forgotten((folder / "key").read_bytes(), there.hashes)
    at = datetime.now(UTC).isoformat(timespec="seconds").encode()
    new = {there.hash_of(each) for each in user_ids} - there.hashes
    list(request_each(lambda each: (folder / "people" / each).create_bytes(at), new))
    return Forgotten(there.key, there.hashes | new)
