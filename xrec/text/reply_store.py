"""The replies of a workspace's language models, kept so that none is paid for twice.

    <workspace>/replies/<list>/<model>/<process>-<number>.parquet
    <workspace>/replies/batches/<endpoint>/<nonce>      batches in progress (xrec.text.batches)

<list> names the key of the hashes of users (xrec.storage.forgotten), and <model> the model with its
options. Every few seconds a process writes its new replies to its next object. Their keys are
hashes of the prompt and the attempt number.

The metadata of an object limits how many requests its process may send without having stored their
replies, until its next object. After a death, the next process counts as many of the requests that
it sends as `maybe_paid_twice`. The limit is 0 once all replies are stored.
"""

import hashlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import lru_cache
from typing import Any

import pyarrow as pa

from xrec.config import JobConfig
from xrec.errors import EndpointError, Failure, StorageError, StorageNotFoundError
from xrec.storage import (
    Forgotten,
    Location,
    content_hash,
    fingerprint_of,
    location_of,
    open_list,
    read_table,
    request_each,
    write_table,
)
from xrec.text.messages import Reply, Usage

logger = logging.getLogger("xrec")

_REPLIES, _BATCHES = "replies", "batches"
_MANY_OBJECTS = 256
_LIMIT = b"xrec.limit"
_SCHEMA = pa.schema(
    {
        "key": pa.string(),
        "users": pa.list_(pa.string()),
        "run": pa.string(),
        "raw": pa.string(),
        "is_cut": pa.bool_(),
        "refusal": pa.string(),
        **dict.fromkeys(vars(Usage()), pa.int64()),
    }
)


class ReplyStore:
    """The replies of one model; several threads may use it.

    people: hashes the users of prompts, so that `forget_replies` finds them.
    run: names the work that pays. A reply that a process bought for the same run and did not live
        to report has its usage, once; other stored replies cost nothing.
    attempt: the number of retries of the run so far; a retry buys other replies.
    at_once: how many requests the caller sends at a time.
    flush_seconds: how long new replies wait for others before they are written.

    Raises StorageError if the store cannot be read.
    """

    def __init__(
        self,
        folder: Location,
        people: Forgotten,
        run: str,
        attempt: int,
        at_once: int,
        flush_seconds: float = 3.0,
    ):
        self._folder, self._people, self._run, self._attempt = folder, people, run, attempt
        self._process, self._number = uuid.uuid4().hex[:12], 0
        self._flush_seconds = flush_seconds
        self._limit, self._written_limit, self._written_at = 2 * at_once, 0, 0.0
        self._in_flight: dict[str, Future[Reply[Any]]] = {}
        self._new: dict[str, dict[str, Any]] = {}  # rows that are in no object yet
        self._objects: dict[str, str] = {}  # the object that has a key
        self._reported: set[str] = set()  # keys whose usage is known to the caller
        self._rows = lru_cache(8)(self._read)
        self._changed, self._writing = threading.Condition(), threading.Lock()
        self._has_thread = False
        self._num_lost = self._maybe_paid_twice = 0
        self._look()

    def key(self, *parts: Any) -> str:
        """Return the key of a request, given plain JSON that identifies it."""
        data = json.dumps([self._attempt, *parts], sort_keys=True).encode()
        return hashlib.blake2b(data, digest_size=16).hexdigest()

    def find(self, key: str) -> "Future[Reply[Any]] | None":
        """Return the reply that is stored or on its way, or None if there is none."""
        with self._changed:
            if (reply := self._find(key)) is None:
                return self._in_flight.get(key)
        found: Future[Reply[Any]] = Future()
        found.set_result(reply)
        return found

    def claim(self, key: str) -> "Future[Reply[Any]] | None":
        """Return what `find` returns; if that is None, the caller must ask, and call `settle`.

        Before, this waits for an object that allows it.
        """
        with self._changed:
            if (future := self.find(key)) is not None:
                return future
            self._in_flight[key] = Future()
            if self._num_lost:
                self._num_lost -= 1
                self._maybe_paid_twice += 1
        while len(self._in_flight) + len(self._new) > self._written_limit:
            if self._written_limit and time.monotonic() - self._written_at < self._flush_seconds:
                self._limit *= 2  # or there would be too many objects
            self.flush()
        return None

    def settle(self, key: str, user_ids: Sequence[str], reply: Reply[Any] | BaseException) -> None:
        """Store the reply to a claimed request, if there is one, and pass it to those who wait."""
        with self._changed:
            future = self._in_flight.pop(key)
            if isinstance(reply, BaseException):
                message = f"another request for the same reply ended: {reply}"
                future.set_exception(EndpointError(message, code="no_reply"))
                return
            if reply.failure is None or reply.failure.reason == "refused":
                self._new[key] = {
                    "key": key,
                    "users": [self._people.hash_of(user_id) for user_id in user_ids],
                    "run": self._run,
                    "raw": reply.raw,
                    "is_cut": reply.is_cut,
                    "refusal": reply.failure and reply.failure.message,
                    **vars(reply.usage),
                }
                self._reported.add(key)
            future.set_result(reply)
            if not self._has_thread:
                self._has_thread = True
                threading.Thread(target=self._flush_often, name="xrec replies", daemon=True).start()

    def flush(self) -> None:
        """Write the replies that are in no object yet; raise StorageError."""
        with self._writing:
            with self._changed:
                rows, limit = dict(self._new), self._limit if self._in_flight else 0
                if not rows and limit == self._written_limit:
                    return
                self._written_limit = min(limit, self._written_limit)
            name = f"{self._process}-{self._number:06d}.parquet"
            self._number += 1
            _write(self._folder / name, pa.Table.from_pylist([*rows.values()], _SCHEMA), limit)
            with self._changed:
                self._objects |= dict.fromkeys(rows, name)
                self._new = {key: row for key, row in self._new.items() if key not in rows}
                self._written_limit, self._written_at = limit, time.monotonic()

    def take_maybe_paid_twice(self) -> int:
        """Return and reset how many requests a process that died may have paid for, too."""
        with self._changed:
            count, self._maybe_paid_twice = self._maybe_paid_twice, 0
        return count

    def _flush_often(self) -> None:
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: False, self._flush_seconds) and not (
                    self._in_flight or self._new
                ):
                    self._has_thread = False
                    return
            try:
                self.flush()
            except StorageError as error:
                logger.warning("replies cannot be stored yet: %s", error)

    def _find(self, key: str) -> Reply[Any] | None:
        """Return the stored reply, without its usage if that was reported."""
        if (row := self._new.get(key)) is None and key in self._objects:
            try:
                row = self._rows(self._objects[key]).get(key)
            except StorageNotFoundError:  # another process merged the object
                self._look()
                row = self._rows(self._objects[key]).get(key) if key in self._objects else None
        if row is None:
            return None
        usage = Usage(*(row[name] for name in vars(Usage())))
        if row["run"] != self._run or key in self._reported:
            usage = Usage()
        self._reported.add(key)
        failure = Failure("refused", row["refusal"]) if row["refusal"] else None
        return Reply(0, row["raw"], usage, is_cut=row["is_cut"], failure=failure)

    def _read(self, name: str) -> dict[str, dict[str, Any]]:
        return {row["key"]: row for row in read_table(self._folder / name, _SCHEMA).to_pylist()}

    def _look(self) -> None:
        """List the objects, and find processes that died; merge the objects if they are many."""
        self._objects, tables, limits = {}, list[pa.Table](), dict[str, int]()
        names = [name for name in sorted(self._folder.sizes()) if name.endswith(".parquet")]
        others = [name for name in names if not name.startswith(self._process)]
        is_merged = len(others) > _MANY_OBJECTS
        merged = f"{uuid.uuid4().hex[:12]}-000000.parquet"
        read = request_each(lambda name: read_table(self._folder / name, _SCHEMA), names)
        for name, table in zip(names, read, strict=True):
            limits[name.partition("-")[0]] = int(table.schema.metadata[_LIMIT])
            if is_other := is_merged and name in others:
                tables.append(table)
            keys = table["key"].to_pylist()
            self._objects |= dict.fromkeys(keys, merged if is_other else name)
        for process, limit in limits.items():
            is_dead = limit and process != self._process
            if is_dead and (self._folder / f"{process}.counted").create_bytes(b""):
                self._num_lost += limit
        if tables:
            _write(self._folder / merged, pa.concat_tables(tables), 0)
            list(request_each(lambda name: (self._folder / name).delete(), others))


def _write(location: Location, rows: pa.Table, limit: int) -> None:
    write_table(location, rows, _SCHEMA.with_metadata({_LIMIT: str(limit)}))


def open_replies(
    config: JobConfig, model: Mapping[str, Any], *, run: str, at_once: int, attempt: int = 0
) -> ReplyStore:
    """Open the store of a model of the workspace; `model` is plain JSON with its options.

    For the rest see `ReplyStore`.
    """
    people = open_list(config)
    folder = location_of(config, _REPLIES) / _name(people) / fingerprint_of(model)
    return ReplyStore(folder, people, run, attempt, at_once)


def batches_of(config: JobConfig) -> Location:
    """Return where the workspace's batches in progress are listed."""
    return location_of(config, _REPLIES) / _BATCHES


def forget_replies(config: JobConfig, people: Forgotten) -> int:
    """Delete the replies to prompts about people, and those with another list's hashes.

    Returns how many of the people's were deleted. No job may write replies meanwhile.
    """
    replies, num_deleted = location_of(config, _REPLIES), 0
    for name in replies.folders():
        if name not in (_name(people), _BATCHES):
            (replies / name).delete()
    for name in (replies / _name(people)).files():
        if name.endswith(".parquet"):
            location = replies / _name(people) / name
            table = read_table(location, _SCHEMA)
            is_kept = [people.hashes.isdisjoint(users) for users in table["users"].to_pylist()]
            if not all(is_kept):
                limit = int(table.schema.metadata[_LIMIT])
                _write(location, table.filter(pa.array(is_kept)), limit)
                num_deleted += is_kept.count(False)
    return num_deleted


def _name(people: Forgotten) -> str:
    return content_hash(people.key)
