"""What it costs to look up one user's rows in a table of explanations on an object store.

    python -m benchmarks.lookup [--rows 100000] [--lookups 300] [--rows-per-chunk 1024]
        [--target-mib 128]

The table is as a backfill leaves it, ten rows a user, a file a chunk; then it is compacted. The
store is SeaweedFS, started here. Each look-up is of another user, drawn at random, one after the
other. Results are appended to results.jsonl in --output.

| contestant | what it is |
|---|---|
| `first` | `RowLookup` with nothing in memory: it reads the file's footer and the rows |
| `footer` | the same with all footers in memory: it reads the rows |
| `memory` | the same with all in memory |
| `dataset` | `DeltaTable.to_pyarrow_dataset()`, opened once, filtered by user |
| `bucket` | the same, filtered by bucket too, for who knows how a bucket is computed |
| `follow` | what an endpoint does to learn whether there is a later version |
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deltalake
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.graph_results import Results
from tests.object_store import object_store
from xrec.backfill import EXPLANATIONS
from xrec.bulk import key_hash
from xrec.bulk.lookup import LookupCache, RowLookup
from xrec.schemas import GENERATED, PAIRS
from xrec.storage import read_manifest, write_manifest
from xrec.table import Snapshot, Table, Writer, write_file

_ITEMS_OF_A_USER = 10
_FILES_OF_A_COMMIT = 64
_NUM_WORDS, _WORDS_OF_A_TEXT = 4000, 60
_CACHE_BYTES = 2**30
Find = Callable[[str], pa.Table]


@dataclass(frozen=True)
class Filled:
    """A table with rows; `num_buckets` as a plan says it."""

    table: Table
    writer: Writer
    users: list[str]
    num_buckets: int

    def lookup(self, snapshot: Snapshot, cache: LookupCache) -> RowLookup:
        """A look-up with this cache."""
        return RowLookup(
            self.table.location,
            snapshot,
            GENERATED,
            num_keys=len(PAIRS),
            num_buckets=self.num_buckets,
            cache=cache,
        )


def fill(table: Table, num_rows: int, rows_per_chunk: int) -> Filled:
    """Write a file for each bucket, as a backfill does."""
    num_buckets = max(1, round(num_rows / rows_per_chunk))
    users = [f"user-{number:07d}" for number in range(num_rows // _ITEMS_OF_A_USER)]
    of_bucket: list[list[str]] = [[] for _ in range(num_buckets)]
    for user in users:
        of_bucket[key_hash(user) % num_buckets].append(user)
    writer, files = table.take_over("benchmark"), []
    for bucket, own in enumerate(of_bucket):
        rows = EXPLANATIONS.file_rows(_rows_of(own, bucket), bucket)
        name, partition = f"part-{bucket}", {"status": "ok"}
        files.append(write_file(table.location, table.format, rows, name=name, partition=partition))
        if len(files) == _FILES_OF_A_COMMIT or bucket == num_buckets - 1:
            writer.commit(files)
            files = []
    return Filled(table, writer, users, num_buckets)


def contestants(
    filled: Filled, storage_options: dict[str, str]
) -> Iterator[tuple[str, Callable[[], Find]]]:
    """Each contestant's name, and a function that gives the function to measure.

    It is called before each look-up, outside of the measured time.
    """
    snapshot, known = filled.table.snapshot(), LookupCache(_CACHE_BYTES)
    warm = filled.lookup(snapshot, known)
    for user in filled.users:
        warm.find(user)

    def footers_only() -> Find:
        cache = LookupCache(_CACHE_BYTES)
        cache.footers = known.footers
        return filled.lookup(snapshot, cache).find

    yield "first", lambda: filled.lookup(snapshot, LookupCache(_CACHE_BYTES)).find
    yield "footer", footers_only
    yield "memory", lambda: warm.find
    delta = deltalake.DeltaTable(filled.table.location.uri, storage_options=storage_options)
    dataset = delta.to_pyarrow_dataset()

    def by_user(user: str) -> pa.Table:
        return dataset.to_table(GENERATED.names, filter=pc.field("user_id") == user)

    def by_bucket(user: str) -> pa.Table:
        bucket = key_hash(user) % filled.num_buckets
        is_wanted = (pc.field("bucket") == bucket) & (pc.field("user_id") == user)
        return dataset.to_table(GENERATED.names, filter=is_wanted)

    yield "dataset", lambda: by_user
    yield "bucket", lambda: by_bucket


def measure(begin: Callable[[], Find], users: list[str]) -> dict[str, Any]:
    """Look the users up one after the other; returns percentiles in milliseconds."""
    seconds = []
    for user in users:
        find = begin()
        began = time.perf_counter()
        rows = find(user)
        seconds.append(time.perf_counter() - began)
        assert rows.num_rows == _ITEMS_OF_A_USER, (user, rows.num_rows)
    return _percentiles(seconds)


def follow(table: Table, num_looks: int) -> dict[str, Any]:
    """Read the manifest as an endpoint does; returns percentiles in milliseconds."""
    write_manifest(table.location, "explanations", config={}, inputs={}, version=1)
    seconds = []
    for _ in range(num_looks):
        began = time.perf_counter()
        read_manifest(table.location, "explanations")
        seconds.append(time.perf_counter() - began)
    return _percentiles(seconds)


def run(
    num_rows: int, num_lookups: int, rows_per_chunk: int, target_mib: int
) -> Iterator[dict[str, Any]]:
    """The lines of the result."""
    with object_store() as store:
        uri = f"{store.new_bucket()}/explanations"
        table = Table.create(uri, EXPLANATIONS.table, run="benchmark", storage=store.storage)
        filled = fill(table, num_rows, rows_per_chunk)
        options = store.environment | {"AWS_ALLOW_HTTP": "true"}
        for state in ("before", "after"):
            if state == "after":
                filled.writer.compact(
                    group_by="bucket", sort_by=PAIRS.names, target_bytes=target_mib * 2**20
                )
            num_files = table.snapshot().files().num_rows
            for name, begin in contestants(filled, options):
                few = name in ("dataset", "bucket")
                users = random.Random(0).sample(
                    filled.users, min(len(filled.users), num_lookups // 10 if few else num_lookups)
                )
                what = {"rows": num_rows, "compaction": state, "files": num_files}
                yield {**what, "contestant": name, **measure(begin, users)}
        yield {"rows": num_rows, "contestant": "follow", **follow(table, num_lookups)}


def main() -> None:
    """Measure, print and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the table")
    parser.add_argument("--lookups", type=int, default=300, help="users; a tenth for datasets")
    parser.add_argument("--rows-per-chunk", type=int, default=1024, help="rows of a file")
    parser.add_argument("--target-mib", type=int, default=128, help="size of compacted files")
    parser.add_argument("--output", type=Path, default=Path("workspace/benchmarks/lookup"))
    arguments = parser.parse_args()
    results = Results(arguments.output)
    settings = {"rows_per_chunk": arguments.rows_per_chunk, "target_mib": arguments.target_mib}
    for line in run(arguments.rows, arguments.lookups, **settings):
        print(json.dumps(line), flush=True)  # noqa: T201
        results.append({"kind": "lookup", **settings, **line})


def _rows_of(users: list[str], seed: int) -> pa.Table:
    """Ten explanations for each user (schema GENERATED), of random words."""
    draw = np.random.default_rng(seed)
    ids = [user for user in users for _ in range(_ITEMS_OF_A_USER)]
    words = draw.zipf(1.3, (len(ids), _WORDS_OF_A_TEXT)) % _NUM_WORDS
    numbers = pa.array(draw.integers(20, 90, len(ids)), pa.int32())
    return pa.table(
        {
            "user_id": ids,
            "item_id": [f"item-{number % 50_000:05d}" for number in range(len(ids))],
            "explanation": [" ".join(f"word{word}" for word in text) for text in words],
            "num_prompt_tokens": numbers,
            "num_generated_tokens": numbers,
            "finish_reason": ["stop"] * len(ids),
            "model_fingerprint": ["0123456789abcdef"] * len(ids),
            "content_key": [draw.bytes(8).hex() for _ in ids],
            "aspects": [_evidence(draw) for _ in ids],
            "kind": ["written"] * len(ids),
            "refused": [""] * len(ids),
        }
    ).cast(GENERATED)


def _evidence(draw: np.random.Generator) -> list[dict[str, Any]]:
    """Three aspects as a backfill with `prompt.aspects=3` has them."""
    counts = ("item_reviews", "num_item_reviews", "user_reviews", "num_user_reviews")
    return [
        {
            "aspect": f"aspect {draw.integers(1000)}",
            **{name: int(draw.integers(50)) for name in counts},
            "opinion": "built like a tank",
            "is_named": bool(draw.integers(2)),
        }
        for _ in range(3)
    ]


def _percentiles(seconds: list[float]) -> dict[str, Any]:
    p50, p99 = np.percentile(seconds, (50, 99)) * 1000
    return {"lookups": len(seconds), "p50_ms": round(p50, 2), "p99_ms": round(p99, 2)}


if __name__ == "__main__":
    main()
