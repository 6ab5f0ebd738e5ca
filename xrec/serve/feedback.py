"""What became of explanations: events that clients tell, and rates of what was shown.

Events are appended in batches to a Delta table below the explanations, `_xrec/feedback`, which
holds no text and no id of a user.
"""

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from xrec.config.shared import StorageConfig
from xrec.errors import ArtifactNotFoundError, XRecError
from xrec.evaluate.intervals import mean_interval
from xrec.serve.problems import RETRY_SECONDS, ProblemError
from xrec.storage import open_location
from xrec.storage.delta import append, delta_errors, open_log, overwrite

logger = logging.getLogger("xrec")

FOLDER = "_xrec/feedback"  # below the explanations
EVENTS = pa.schema(
    [
        ("at", pa.timestamp("us", "UTC")),
        *((name, pa.string()) for name in ("event", "user", "item_id", "request_id", "arm")),
        ("version", pa.int64()),  # of the explanations; null if the text was live
        ("model_fingerprint", pa.string()),
        ("aspects", pa.list_(pa.string())),  # that the text names
    ]
)
BATCH_ROWS, BATCH_SECONDS = 1000, 5.0
"""Events are written once there are so many, or after so long."""
MAX_WAITING = 10_000
"""So many events wait at most, while the storage does not answer; further ones are refused."""
SHADOW = "shadow_"
"""What begins the events of a candidate that is not shown: same, other or missing."""
_RATES, _NUM_SHOWN = ("opened", "helpful", "wrong"), 50
_COLUMNS = {"model": "model_fingerprint", "item": "item_id", "aspect": "aspects"}


class FeedbackLog:
    """Takes events, and appends them in batches to the tables of their explanations."""

    def __init__(self, storage: StorageConfig):
        self._storage, self._is_due = storage, asyncio.Event()
        self._waiting: list[tuple[str, dict[str, Any]]] = []

    def take(self, explanations: str, user_id: str, event: Mapping[str, Any]) -> None:
        """Take an event, columns of `EVENTS`, about the explanations at a URI.

        `user` is a hash of the id, by which a person's rows can be found. Raises ProblemError with
        status 503 if too many events wait.
        """
        if len(self._waiting) >= MAX_WAITING:
            detail = f"{MAX_WAITING} events wait to be written; send this one again later"
            raise ProblemError(503, "feedback", detail, RETRY_SECONDS)
        user = {"user": _hash_of(user_id)}
        self._waiting.append((explanations, {"at": datetime.now(UTC), **user, **event}))
        if len(self._waiting) % BATCH_ROWS == 0:
            self._is_due.set()

    async def write_on(self) -> None:
        """Write batches until cancelled, and then what is left."""
        try:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._is_due.wait(), BATCH_SECONDS)
                self._is_due.clear()
                await self.write()
        finally:
            await self.write()

    async def write(self) -> None:
        """Write what waits; it waits on if the storage does not take it, and may come twice."""
        batch = self._waiting[:]
        for explanations in {uri for uri, _ in batch}:
            rows = pa.Table.from_pylist([row for uri, row in batch if uri == explanations], EVENTS)
            location = open_location(explanations, self._storage) / FOLDER
            try:
                await asyncio.to_thread(append, location, rows)
            except XRecError as error:
                logger.error("feedback is not written yet: %s", error)
                return
        del self._waiting[: len(batch)]


def forget(explanations: str, user_ids: Iterable[str], storage: StorageConfig) -> None:
    """Delete what these people told, for good; raises TableError, StorageError."""
    rows = _events(explanations, storage)
    gone = pa.array(map(_hash_of, user_ids), pa.string())
    left = rows.filter(pc.invert(pc.is_in(rows["user"], gone)))
    if left.num_rows < rows.num_rows:
        overwrite(open_location(explanations, storage) / FOLDER, left)


def _hash_of(user_id: str) -> str:
    return hashlib.sha256(user_id.encode()).hexdigest()[:16]


def rates(explanations: str, by: str, storage: StorageConfig) -> Iterator[tuple[str, ...]]:
    """A value of `by`, how many texts were shown, and the shares opened, helpful and wrong.

    A text that has an event was shown, and counts once. Intervals cover 95 %, clustered by users.
    The most frequent values come first. Raises ArtifactNotFoundError if there is no feedback.
    """
    rows = _events(explanations, storage)
    rows = rows.filter(pc.is_in(rows["event"], pa.array(["shown", *_RATES])))
    if not rows.num_rows:
        raise ArtifactNotFoundError(
            f"{explanations}: no feedback is there; POST /v1/feedback takes it, or check the URI"
        )
    value = rows[_COLUMNS.get(by, by)].combine_chunks()
    if by == "aspect":
        rows, value = rows.take(pc.list_parent_indices(value)), pc.list_flatten(value)
    rows = rows.append_column("value", pc.fill_null(value.cast(pa.string()), "-"))
    for name in _RATES:
        rows = rows.append_column(name, pc.equal(rows["event"], name))
    keys = ["value", "user", "item_id", "arm", "version", "model_fingerprint"]
    shown = rows.group_by(keys).aggregate([(name, "any") for name in _RATES])
    for each, count in Counter(shown["value"].to_pylist()).most_common(_NUM_SHOWN):
        of = shown.filter(pc.equal(shown["value"], each))
        users = of["user"].to_pylist()
        values = (of[f"{name}_any"].to_numpy() for name in _RATES)
        yield (each, f"{count:,}", *(mean_interval(some, users).text(3) for some in values))


def shadow_lines(explanations: str, run: str, storage: StorageConfig) -> Iterator[str]:
    """What a run that was not shown had in the place of answers of the endpoint, in a line."""
    rows = _events(explanations, storage)
    found = Counter(rows.filter(pc.equal(rows["arm"], run))["event"].to_pylist())
    counts = {said: found[SHADOW + said] for said in ("same", "other", "missing")}
    if total := sum(counts.values()):
        shares = ", ".join(f"{count / total:.1%} {said}" for said, count in counts.items())
        yield f"online, in the place of {total:,} answers: {shares}"


def _events(explanations: str, storage: StorageConfig) -> pa.Table:
    """All events about the explanations at a URI, in `EVENTS`; raises TableError, StorageError."""
    location = open_location(explanations, storage) / FOLDER
    if (log := open_log(location)) is None:
        return EVENTS.empty_table()
    with delta_errors(location):
        return log.delta.to_pyarrow_table()
