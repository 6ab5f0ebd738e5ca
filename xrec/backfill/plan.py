"""The plan of a run says which pairs are in which chunk; it is written once.

A pair belongs to chunk hash(user) mod C, where C is the smallest power of two with which chunks
have at most `rows_per_chunk` rows on average. A chunk of at least twice as many rows is cut into
pieces of equal size, in the order of user and item. So the plan depends only on the set of pairs,
not on their order or files.

A driver first writes the pairs of all chunks, in a folder that is named after the run, and then
`plan.json`, which can be created only once. So a plan that exists is complete, and the driver of
another run cannot overwrite its pairs. A run resumes its own plan only.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from xrec.backfill.chunk import chunk_name
from xrec.backfill.identity import RunIdentity, identify, output_uri
from xrec.backfill.spill import PairSpill, pairs_hash
from xrec.config.backfill import BackfillConfig
from xrec.errors import ConfigError, DataError
from xrec.schemas import PAIRS
from xrec.storage import (
    Location,
    Manifest,
    finished,
    is_begun,
    open_location,
    parquet_bytes,
    read_table,
    request_each,
)

PLAN = "plan.json"
SUCCESS = "_SUCCESS"


class PlannedChunk(BaseModel):
    """The number of rows of a chunk, and the hash of its pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    pairs: str


@dataclass(frozen=True)
class BackfillPlan:
    """A run: where it is written, what it depends on, and its chunks by number."""

    output: Location
    identity: RunIdentity
    num_chunks: int
    chunks: dict[int, PlannedChunk]

    @property
    def num_rows(self) -> int:
        """How many pairs the run has."""
        return sum(chunk.rows for chunk in self.chunks.values())


@dataclass(frozen=True)
class PlanDraft:
    """A run whose plan may be written: its output is empty, or holds this run already."""

    output: Location
    identity: RunIdentity
    rows_per_chunk: int
    num_chunks: int
    spill: PairSpill = field(repr=False)
    done: Manifest | None
    """The manifest, if this run is finished already."""

    def write(self) -> BackfillPlan:
        """Write the plan if it is not there, and return it; the caller must hold the lease.

        The disk space that the draft uses is freed.
        """
        if not self._is_begun():
            self._create(dict(request_each(self._write_chunk, self._pieces())))
        self.spill.delete()
        return read_plan(self.output, self.identity)

    def _is_begun(self) -> bool:
        return is_begun(
            self.output, PLAN, "explanations", self.identity.config, self.identity.inputs
        )

    def _pieces(self) -> Iterator[tuple[int, pa.Table]]:
        for chunk, pairs in self.spill.chunks(self.num_chunks):
            is_too_large = pairs.num_rows >= 2 * self.rows_per_chunk
            num_pieces = math.ceil(pairs.num_rows / self.rows_per_chunk) if is_too_large else 1
            size = math.ceil(pairs.num_rows / num_pieces)
            for piece, start in enumerate(range(0, pairs.num_rows, size)):
                yield piece * self.num_chunks + chunk, pairs.slice(start, size)

    def _write_chunk(self, numbered: tuple[int, pa.Table]) -> tuple[int, PlannedChunk]:
        chunk, pairs = numbered
        pairs_location(self.output, self.identity.run, chunk).write_bytes(
            parquet_bytes(pairs, PAIRS)
        )
        return chunk, PlannedChunk(rows=pairs.num_rows, pairs=pairs_hash(pairs))

    def _create(self, chunks: dict[int, PlannedChunk]) -> None:
        record = {
            "run": self.identity.run,
            "config": self.identity.config,
            "inputs": self.identity.inputs,
            "num_chunks": self.num_chunks,
            "chunks": {
                chunk_name(chunk): planned.model_dump() for chunk, planned in sorted(chunks.items())
            },
        }
        if not (self.output / PLAN).create_bytes(json.dumps(record).encode()):
            # Another driver was first; this raises an error if its plan is that of another run.
            self._is_begun()


def draft_plan(config: BackfillConfig, batches: Iterable[pa.Table]) -> PlanDraft:
    """Return the draft of the run of `config` over `batches` of pairs (schema PAIRS).

    Nothing is written to the output; the pairs are on this machine's disk until the draft's
    `write`. Raises ArtifactMismatchError, which names the fields that differ, if the output holds
    another run; DataError if there are no pairs; and what `batches` and `check_sources` raise.
    """
    spill = PairSpill(batches)
    if spill.num_pairs == 0:
        raise DataError(f"no pairs to explain; check pairs ({config.pairs.kind})")
    identity = identify(config, spill.fingerprint)
    output = open_location(output_uri(config, identity.run), config.storage)
    done = finished(output, "explanations", identity.config, identity.inputs)
    if done is not None and not (output / SUCCESS).is_file():
        done = None  # the driver died after it wrote the manifest
    if done is None:
        is_begun(output, PLAN, "explanations", identity.config, identity.inputs)
    return PlanDraft(
        output,
        identity,
        config.rows_per_chunk,
        _num_chunks(config, output, spill.num_pairs),
        spill,
        done,
    )


def _num_chunks(config: BackfillConfig, output: Location, num_pairs: int) -> int:
    """Return C, the number of chunks before large ones are cut.

    A run that carries explanations over takes C of the earlier run, since the earlier
    explanations of a user are found by it.
    """
    if config.carry_from is None:
        return 1 << math.ceil(math.log2(max(1.0, num_pairs / config.rows_per_chunk)))
    earlier = open_location(config.carry_from, config.storage)
    if not output.same_store(earlier):
        raise ConfigError(
            f"carry_from = {earlier} and the output {output} must both be local or both on S3; "
            "copy one of them"
        )
    num_chunks: int = json.loads((earlier / PLAN).read_text())["num_chunks"]
    return num_chunks


def read_plan(output: Location, identity: RunIdentity) -> BackfillPlan:
    """Return the plan at `output`; raises StorageNotFoundError if there is none."""
    record = json.loads((output / PLAN).read_text())
    chunks = {
        int(name): PlannedChunk.model_validate(chunk) for name, chunk in record["chunks"].items()
    }
    return BackfillPlan(output, identity, record["num_chunks"], chunks)


def pairs_location(output: Location, run: str, chunk: int) -> Location:
    """Return where the pairs of a chunk lie."""
    return output / "plan" / run / f"{chunk_name(chunk)}.parquet"


def read_chunk_pairs(output: Location, run: str, chunk: int, planned_hash: str) -> pa.Table:
    """Return the pairs of a chunk (schema PAIRS), sorted by user and item.

    Raises DataError if they are not the pairs of the plan, whose hash is `planned_hash`.
    """
    location = pairs_location(output, run, chunk)
    pairs = read_table(location, PAIRS)
    if pairs_hash(pairs) != planned_hash:
        raise DataError(
            f"{location}: the pairs are not those of {PLAN}, so the file was changed; "
            "give another output URI, or delete this output"
        )
    return pairs
