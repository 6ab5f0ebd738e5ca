"""What it costs to look up one user's rows in published explanations on an object store.

    python -m benchmarks.lookup [--rows 1000000] [--lookups 200]

The results of a run are written without a model, ten rows a user with texts of 45 words, and
published. Each look-up is of another user, drawn at random, one after the other. The store is
SeaweedFS, started here. Results are appended to results.jsonl in --output.

| contestant | what it is |
|---|---|
| `first` | `ExplanationLookup` that was just opened: it reads the log, a footer, and the rows |
| `find` | the same when it is open and has read all footers, as the endpoint's is |
| `deltalake` | `DeltaTable.to_pyarrow_dataset()`, opened once, filtered by bucket and user |
| `polars` | `scan_delta`, filtered by bucket and user |
| `duckdb_arrow` | DuckDB on the dataset of `deltalake`, likewise |
"""

import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Annotated

import deltalake
import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.compute as pc
import typer

from benchmarks.bulk_work import some_texts
from benchmarks.report import (
    BENCHMARKS,
    Output,
    Record,
    Results,
    command_line,
    write_tables,
)
from tests.world.store import ObjectStore, object_store
from xrec.backfill.lookup import open_lookup
from xrec.backfill.plan import EXPLANATIONS
from xrec.bulk import (
    BulkRun,
    Identity,
    Outcome,
    RunRequest,
    Summary,
    bucket_of,
    clean_keys,
    open_run,
    publish,
    published,
)
from xrec.config import StorageConfig
from xrec.schemas import EVIDENCE, GENERATED, PAIRS
from xrec.storage import request_each

app = command_line()

_ITEMS_OF_A_USER, _NUM_ITEMS = 10, 50_000
_ROWS_PER_CHUNK, _BATCH = 8192, 65_536
_MANY = 2**14  # different lists of aspects
Find = Callable[[str], int]


def opened(
    uri: str, storage: StorageConfig, num_rows: int, carry_from: str | None = None
) -> BulkRun:
    """The run, which is planned if it is not yet; with `carry_from` it is another run."""

    def batches() -> Iterator[tuple[pa.Table, pa.Table]]:
        for start in range(0, num_rows, _BATCH):
            numbers = range(start, min(start + _BATCH, num_rows))
            users = [_user(number // _ITEMS_OF_A_USER) for number in numbers]
            items = [f"item-{number % _NUM_ITEMS:05d}" for number in numbers]
            rows = pa.table({"user_id": users, "item_id": items})
            yield clean_keys(rows, PAIRS.names, file="rows", first_line=1, given=EXPLANATIONS.given)

    identity = Identity(kind="explanations", config={"carry_from": carry_from}, inputs={})
    request = partial(RunRequest, rows_per_chunk=_ROWS_PER_CHUNK, storage=storage)
    return open_run(request(uri, identity, EXPLANATIONS, batches, carry_from=carry_from))


def fill(run: BulkRun) -> None:
    """Let all chunks have a result."""
    (whole,) = run.passes()
    aspects = _some_aspects()

    def do(chunk: int) -> None:
        planned = whole.plan.rows(chunk)
        failed = EXPLANATIONS.failed_schema.empty_table()
        outcome = Outcome(_explained(planned, aspects, chunk), failed)
        rows = EXPLANATIONS.sorted(EXPLANATIONS.rows_of(outcome, planned))
        whole.results.create(chunk, rows, Summary(num_ok=rows.num_rows))

    for _ in request_each(do, range(run.record.size.num_chunks)):
        pass


def contestants(uri: str, storage: StorageConfig, store: ObjectStore) -> Iterator[tuple[str, Find]]:
    """Each contestant's name, and how it looks a user up; returns the number of rows."""
    table = published(uri, storage=storage)
    known = open_lookup(uri, None, max_bytes=0, storage=storage)
    known.read_ahead()
    options = {"AWS_ALLOW_HTTP": "true", **store.environment}
    theirs = deltalake.DeltaTable(uri, storage_options=options).to_pyarrow_dataset()
    names = GENERATED.names

    def bucket(user: str) -> int:
        found = bucket_of(user, table.num_buckets)
        return int(found)

    def first(user: str) -> int:
        return int(open_lookup(uri, None, max_bytes=0, storage=storage).of_user(user).num_rows)

    def by_deltalake(user: str) -> int:
        wanted = (pc.field("bucket") == bucket(user)) & (pc.field("user_id") == user)
        return int(theirs.to_table(names, filter=wanted).num_rows)

    scanned = polars.scan_delta(uri, storage_options=options)

    def by_polars(user: str) -> int:
        is_wanted = (polars.col("bucket") == bucket(user)) & (polars.col("user_id") == user)
        return scanned.filter(is_wanted).select(names).collect().height

    on_arrow = duckdb.connect().register("theirs", theirs)
    selected = f"SELECT {', '.join(names)} FROM theirs"

    def by_duckdb_arrow(user: str) -> int:
        where = f"bucket = {bucket(user)} AND user_id = '{user}'"
        return len(on_arrow.sql(f"{selected} WHERE {where}").fetchall())

    yield "first", first
    yield "find", lambda user: known.of_user(user).num_rows
    yield "deltalake", by_deltalake
    yield "polars", by_polars
    yield "duckdb_arrow", by_duckdb_arrow


def measure(find: Find, users: list[str]) -> Record:
    """Look the users up one after the other; returns percentiles in milliseconds."""
    seconds = []
    for user in users:
        began = time.perf_counter()
        num_rows = find(user)
        seconds.append(time.perf_counter() - began)
        assert num_rows == _ITEMS_OF_A_USER, (user, num_rows)
    p50, p99 = (np.percentile(seconds, (50, 99)) * 1000).round(2).tolist()
    return {"lookups": len(seconds), "p50 ms": p50, "p99 ms": p99}


def run(num_rows: int, num_lookups: int) -> Iterator[Record]:
    """A row of the result for each contestant."""
    with object_store() as store:
        uri, storage = f"{store.new_bucket()}/explanations", store.storage
        planned = opened(uri, storage, num_rows)
        fill(planned)
        publish(planned, "explanations", lambda summary: ({}, {}))
        for name, find in contestants(uri, storage, store):
            few = None if name in ("first", "find", "deltalake") else num_lookups // 10
            drawn = random.Random(0).sample(range(num_rows // _ITEMS_OF_A_USER), num_lookups)
            users = [_user(number) for number in islice(drawn, few)]
            yield {"contestant": name, "rows": num_rows, **measure(find, users)}


@app.command(help=__doc__)
def lookup(
    rows: Annotated[int, typer.Option(min=10, help="Rows of the table.")] = 1_000_000,
    lookups: Annotated[int, typer.Option(min=10, help="Users; a tenth where it is slow.")] = 200,
    output: Output = BENCHMARKS / "lookup",
) -> None:
    """Measure, print and keep the results."""
    found = []
    for row in run(rows, lookups):
        Results(output).append("lookup", row)
        found.append(row)
    write_tables(output, "lookup", {"One user's rows": found})


def _explained(planned: pa.Table, aspects: pa.Array, seed: int) -> pa.Table:
    """An explanation for each pair (schema GENERATED)."""
    draw = np.random.default_rng(seed)
    count = planned.num_rows
    texts = some_texts()
    digits = draw.bytes(8 * count).hex()
    columns = {
        "user_id": planned["user_id"],
        "item_id": planned["item_id"],
        "explanation": texts.take(pa.array(draw.integers(len(texts), size=count))),
        "num_prompt_tokens": pa.array(draw.integers(200, 400, count)),
        "num_generated_tokens": pa.array(draw.integers(40, 90, count)),
        "finish_reason": pa.repeat("stop", count),
        "model_fingerprint": pa.repeat("0123456789abcdef", count),
        "content_key": [digits[start : start + 16] for start in range(0, 16 * count, 16)],
        "aspects": aspects.take(pa.array(draw.integers(len(aspects), size=count))),
        "kind": pa.repeat("written", count),
        "refused": pa.repeat("", count),
    }
    schema = pa.schema([field for field in GENERATED if field.name in columns])
    return pa.table(columns).select(schema.names).cast(schema)


def _some_aspects() -> pa.Array:
    """Lists of three aspects, as a backfill with `prompt.aspects=3` has them."""
    draw = np.random.default_rng(0)
    counts = ("item_reviews", "num_item_reviews", "user_reviews", "num_user_reviews")
    lists = [
        [
            {
                "aspect": f"aspect {draw.integers(1000)}",
                **{name: int(draw.integers(50)) for name in counts},
                "opinion": "built like a tank",
                "is_named": bool(draw.integers(2)),
            }
            for _ in range(3)
        ]
        for _ in range(_MANY)
    ]
    return pa.array(lists, pa.list_(EVIDENCE))


def _user(number: int) -> str:
    return f"user-{number:07d}"


if __name__ == "__main__":
    app()
