"""The plan of a run: which pairs are in which chunk. Written once, create-only; a run resumes its own plan only.

C is the smallest power of two that brings chunks to `rows_per_chunk` on average; pairs go by hash of their user. A chunk of
twice as many rows is cut into equal pieces, in the order of user and item. So the plan follows from the set of pairs alone.

A driver writes the pairs of all chunks under the run's own name first and `plan.json`, which can be created once, last: a
plan that is there is whole, and no other run's driver can have written over its pairs.
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
    """Rows of a chunk and the hash of its pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    pairs: str


@dataclass(frozen=True)
class BackfillPlan:
    """A run, where it is written, and its chunks by number."""

    output: Location
    identity: RunIdentity
    num_chunks: int
    chunks: dict[int, PlannedChunk]

    @property
    def num_rows(self) -> int:
        """Pairs of the run."""
        return sum(chunk.rows for chunk in self.chunks.values())


@dataclass(frozen=True)
class PlanDraft:
    """A run that is known and may be written: its output is its own, or empty. `write` needs the lease."""

    output: Location
    identity: RunIdentity
    rows_per_chunk: int
    num_chunks: int
    spill: PairSpill = field(repr=False)
    done: Manifest | None
    """The manifest, if this very run is finished already."""

    def write(self) -> BackfillPlan:
        """Write the plan, or take up the one that is there; frees the disk that the draft took."""
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
            num_pieces = (
                math.ceil(pairs.num_rows / self.rows_per_chunk)
                if pairs.num_rows >= 2 * self.rows_per_chunk
                else 1
            )
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
            self._is_begun()  # another driver was first: its plan is this run's, or this raises


def draft_plan(config: BackfillConfig, batches: Iterable[pa.Table]) -> PlanDraft:
    """Find out which run `config` and its pairs (`batches`, schema PAIRS) are; writes nothing to the output.

    Raises ArtifactMismatchError, naming the fields that differ, if the output holds another run; DataError if there are no
    pairs; what `batches` and `check_sources` raise.
    """
    spill = PairSpill(batches)
    if spill.num_pairs == 0:
        raise DataError(f"no pairs to explain; check pairs ({config.pairs.kind})")
    identity = identify(config, spill.fingerprint)
    output = open_location(output_uri(config, identity.run), config.storage)
    done = finished(output, "explanations", identity.config, identity.inputs)
    if done is not None and not (output / SUCCESS).is_file():
        done = None  # its driver died between the two
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
    """C; that of the run that is carried on from, so that a user's earlier explanations are where they are looked for."""
    if config.carry_from is None:
        return 1 << math.ceil(math.log2(max(1.0, num_pairs / config.rows_per_chunk)))
    earlier = open_location(config.carry_from, config.storage)
    if earlier.is_local != output.is_local:
        raise ConfigError(
            f"carry_from = {earlier} and the output {output} must lie on the same store; copy one of them"
        )
    num_chunks: int = json.loads((earlier / PLAN).read_text())["num_chunks"]
    return num_chunks


def read_plan(output: Location, identity: RunIdentity) -> BackfillPlan:
    """The plan at `output`; raises StorageNotFoundError if there is none."""
    record = json.loads((output / PLAN).read_text())
    chunks = {
        int(name): PlannedChunk.model_validate(chunk) for name, chunk in record["chunks"].items()
    }
    return BackfillPlan(output, identity, record["num_chunks"], chunks)


def pairs_location(output: Location, run: str, chunk: int) -> Location:
    """Where the pairs of a chunk lie."""
    return output / "plan" / run / f"{chunk_name(chunk)}.parquet"


def read_chunk_pairs(output: Location, run: str, chunk: int, planned_hash: str) -> pa.Table:
    """The pairs of a chunk (schema PAIRS), by user and item; raises DataError if they are not those of the plan."""
    location = pairs_location(output, run, chunk)
    pairs = read_table(location, PAIRS)
    if pairs_hash(pairs) != planned_hash:
        raise DataError(
            f"{location}: holds other pairs than {PLAN} says; the file was changed. Give another output URI, or delete this one"
        )
    return pairs
