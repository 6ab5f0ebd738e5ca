"""The work of benchmarks.bulk: pairs in, texts out, without a model.

This module imports nothing but pyarrow: `python -m benchmarks.bulk_work daft WORK` runs by an
interpreter of its own, which has Daft or datatrove, and no xrec.
"""

import json
import os
import random
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PAIRS_PER_USER = 10
_NUM_ITEMS, _NUM_FILES = 5_000, 8
_NUM_TEXTS, _WORDS_OF_A_TEXT = 2**14, 45
PAIRS = pa.schema([("user_id", pa.string()), ("item_id", pa.string())])
TEXTS = pa.schema([("explanation", pa.string()), ("num_tokens", pa.int32())])


@dataclass(frozen=True)
class Work:
    """What a contestant is to do.

    pairs: a folder of Parquet files. output: a folder. diary: a file that gets a line when a chunk
    is done. rows: of a chunk or a batch. seconds: how long a chunk takes. poison: a user for whom
    there is no text, but an error.
    """

    pairs: str
    output: str
    diary: str
    rows: int
    seconds: float
    num_actors: int = 2
    poison: str = ""

    @classmethod
    def from_arguments(cls) -> tuple[str, "Work"]:
        """A contestant's name and its work, as `arguments` gave them to this process."""
        return sys.argv[1], cls(**json.loads(sys.argv[2]))

    def arguments(self, name: str) -> list[str]:
        """The arguments of a contestant's process."""
        return [name, json.dumps(asdict(self))]

    def explained(self, pairs: pa.Table) -> pa.Table:
        """The pairs with a text each; raises ValueError for `poison`."""
        time.sleep(self.seconds * pairs.num_rows / self.rows)
        if self.poison in pairs["user_id"].to_pylist():
            raise ValueError(f"no text for {self.poison}")
        first = zlib.crc32(pairs["user_id"][0].as_py().encode())
        numbers = pa.array([(first + row) % _NUM_TEXTS for row in range(pairs.num_rows)])
        texts = pa.repeat(pa.scalar(_WORDS_OF_A_TEXT, pa.int32()), pairs.num_rows)
        made = pairs.append_column("explanation", some_texts().take(numbers))
        with Path(self.diary).open("a") as diary:
            diary.write(f"{time.time()} {os.getpid()}\n")
        return made.append_column("num_tokens", texts)

    def times(self) -> list[float]:
        """When chunks were done."""
        return [float(line.split()[0]) for line in self._lines()]

    def last_worker(self) -> int:
        """The id of the process that did the last chunk."""
        return int(self._lines()[-1].split()[1])

    def _lines(self) -> list[str]:
        file = Path(self.diary)
        return file.read_text().splitlines() if file.exists() else []


@lru_cache(1)
def some_texts() -> pa.Array:
    """Texts of 45 words whose frequencies are as in a language (Zipf)."""
    draw = random.Random(0)
    words = [f"word{number}" for number in range(4000)]
    weights = [1 / (number + 1) for number in range(len(words))]
    drawn = draw.choices(words, weights, k=_NUM_TEXTS * _WORDS_OF_A_TEXT)
    starts = range(0, len(drawn), _WORDS_OF_A_TEXT)
    return pa.array([" ".join(drawn[start : start + _WORDS_OF_A_TEXT]) for start in starts])


def make_pairs(folder: Path, num_pairs: int) -> None:
    """Write pairs, ten a user, shuffled, with `pair_id`: Ray Data's checkpoint needs one column."""
    folder.mkdir(parents=True)
    numbers = list(range(num_pairs))
    random.Random(0).shuffle(numbers)
    for file in range(_NUM_FILES):
        own = numbers[file::_NUM_FILES]
        users = [f"user-{number // PAIRS_PER_USER:07d}" for number in own]
        items = [f"item-{number % _NUM_ITEMS:05d}" for number in own]
        ids = [f"{user} {item}" for user, item in zip(users, items, strict=True)]
        table = pa.table({"user_id": users, "item_id": items, "pair_id": ids})
        pq.write_table(table, folder / f"{file}.parquet")


def report(work: Work, contestant: Callable[[Work], dict[str, Any]]) -> None:
    """Run a contestant in this process, and print what it cost as a line of JSON.

    first_seconds: until the first chunk was done; seconds: of all but publishing.
    """
    began, before = time.time(), len(work.times())
    measured = contestant(work)
    seconds = time.time() - began - measured.get("publish_seconds", 0.0)
    times = work.times()[before:]
    first = min(times) - began if times else None
    fields = {"seconds": seconds, "first_seconds": first, "driver_mb": peak_mb(), **measured}
    print(json.dumps(fields), flush=True)  # noqa: T201


def forget_peak() -> None:
    """Let Linux count the most memory of this process from here on."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """The greatest resident memory of this process so far, or since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def by_daft(work: Work) -> dict[str, Any]:
    """Daft: read_parquet, a function on batches in processes of its own, write_parquet."""
    import daft  # type: ignore[import-not-found]

    made_of = {field.name: daft.DataType.from_arrow_type(field.type) for field in TEXTS}

    @daft.cls(max_concurrency=work.num_actors, use_process=True)
    class Explain:
        @daft.method.batch(return_dtype=daft.DataType.struct(made_of), batch_size=work.rows)  # type: ignore[untyped-decorator]
        def explained(self, users: daft.Series, items: daft.Series) -> Any:
            pairs = pa.table({"user_id": users.to_arrow(), "item_id": items.to_arrow()})
            return work.explained(pairs).select(TEXTS.names).combine_chunks().to_struct_array()

    pairs = daft.read_parquet(f"{work.pairs}/*.parquet").select("user_id", "item_id")
    made = pairs.with_column("made", Explain().explained(daft.col("user_id"), daft.col("item_id")))
    texts = [daft.col("made")[name].alias(name) for name in TEXTS.names]
    made.select("user_id", "item_id", *texts).write_parquet(f"{work.output}/rows")
    return {}


def by_datatrove(work: Work) -> dict[str, Any]:
    """datatrove: a task for each file, ParquetReader, a step on batches, ParquetWriter."""
    from datatrove.data import Document  # type: ignore[import-not-found]
    from datatrove.executor import LocalPipelineExecutor  # type: ignore[import-not-found]
    from datatrove.pipeline.readers import ParquetReader  # type: ignore[import-not-found]
    from datatrove.pipeline.writers import ParquetWriter  # type: ignore[import-not-found]

    def explain(documents: Iterator[Any], rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        while batch := list(islice(documents, work.rows)):
            pairs = pa.Table.from_pylist([json.loads(each.id) for each in batch], PAIRS)
            for row in work.explained(pairs).to_pylist():
                keys = {name: row[name] for name in PAIRS.names}
                yield Document(text=row["explanation"], id=json.dumps(keys), metadata=row)

    def read(_: Any, row: dict[str, str], *place: Any) -> dict[str, Any]:
        keys = {name: row[name] for name in PAIRS.names}
        return {"text": row["user_id"], "id": json.dumps(keys), "metadata": {}}

    def write(_: Any, document: Any) -> dict[str, Any]:
        return {name: document.metadata[name] for name in (*PAIRS.names, *TEXTS.names)}

    LocalPipelineExecutor(
        [
            ParquetReader(work.pairs, adapter=read),
            explain,
            ParquetWriter(f"{work.output}/rows", adapter=write),
        ],
        tasks=_NUM_FILES,
        workers=work.num_actors,
        logging_dir=f"{work.output}/log",
    ).run()
    return {}


if __name__ == "__main__":
    from benchmarks import bulk_work  # Daft's processes import it by this name

    name, given = bulk_work.Work.from_arguments()
    bulk_work.report(given, {"daft": bulk_work.by_daft, "datatrove": bulk_work.by_datatrove}[name])
