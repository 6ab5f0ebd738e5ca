"""The plan of a run: which pairs are in which chunk. Written once, create-only; a run resumes its own plan only.

A pair belongs to chunk hash(user_id) mod C: a user's pairs share a chunk, and one file holds the explanation of (u, i).
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from xrec.config import BackfillConfig, ColdStartConfig, StorageConfig
from xrec.data.cold_start import read_cold_start
from xrec.generate.explainer import Sources, check_sources
from xrec.schemas import PAIRS
from xrec.storage import (
    Location,
    Manifest,
    content_hash,
    fingerprint_of,
    finished,
    is_begun,
    open_location,
    parquet_bytes,
    run_fingerprint,
)

PLAN = "plan.json"


@dataclass(frozen=True)
class BackfillPlan:
    """A run: what it depends on, and the rows of each chunk that has any."""

    config: dict[str, Any]
    inputs: dict[str, str]
    chunk_rows: dict[int, int]
    done: Manifest | None = None
    """The manifest, if this very run is finished already."""

    @property
    def run(self) -> str:
        """The run's fingerprint."""
        return run_fingerprint("explanations", self.config, self.inputs)


def chunk_of(user_id: str, num_chunks: int) -> int:
    """hash(user_id) mod C; the same in every process and version."""
    return int.from_bytes(hashlib.blake2b(user_id.encode("utf-8"), digest_size=8).digest(), "big") % num_chunks


def chunk_name(chunk: int) -> str:
    """The number of a chunk as it stands in file names."""
    return f"{chunk:05d}"


def plan_location(output: Location, chunk: int) -> Location:
    """The pairs of a chunk."""
    return output / "plan" / f"chunk-{chunk_name(chunk)}.parquet"


def sources_of(config: BackfillConfig) -> Sources:
    """What the workers load, with URIs that any process on this machine can open."""
    locations = {name: open_location(config.artifact(name), config.storage) for name in ("dataset", "graph", "adapter")}
    return Sources(
        **{name: location.shared_uri for name, location in locations.items()},
        llm=config.llm,
        storage=config.storage,
        cold_start=_shared(config.cold_start, config.storage) if config.cold_start else None,
    )


def _shared(tables: ColdStartConfig, storage: StorageConfig) -> ColdStartConfig:
    uris = tables.model_dump(exclude_none=True)
    return ColdStartConfig(**{name: open_location(uri, storage).shared_uri for name, uri in uris.items()})


def plan_backfill(config: BackfillConfig, pairs: pa.Table) -> BackfillPlan:
    """Write the plan for `pairs` (schema PAIRS), or take up the one that is there.

    Raises ArtifactMismatchError, naming the fields that differ, if the output holds another run; what `check_sources` raises.
    """
    output = open_location(config.artifact("explanations"), config.storage)
    run_config, inputs = _identity(config, pairs)
    chunks = np.array([chunk_of(user_id, config.num_chunks) for user_id in pairs["user_id"].to_pylist()])
    numbers, rows = np.unique(chunks, return_counts=True)
    chunk_rows = dict(zip(numbers.tolist(), rows.tolist(), strict=True))
    done = finished(output, "explanations", run_config, inputs)
    plan = BackfillPlan(run_config, inputs, chunk_rows, done)
    if done is None and not is_begun(output, PLAN, "explanations", plan.config, plan.inputs):
        for chunk in chunk_rows:
            plan_location(output, chunk).write_bytes(parquet_bytes(pairs.filter(pa.array(chunks == chunk)), PAIRS))
        _create(output, plan)
    return plan


def _identity(config: BackfillConfig, pairs: pa.Table) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings and inputs that the explanations depend on."""
    sources = sources_of(config)
    checked = check_sources(sources)
    inputs = {
        "dataset": checked.dataset.fingerprint,
        "graph": checked.graph.fingerprint,
        "base_model": checked.adapter.config.base_model_fingerprint,  # check_sources has seen that llm.model is this one
        "adapter": checked.adapter.fingerprint,
        "pairs": content_hash(parquet_bytes(pairs, PAIRS)),
    }
    if sources.cold_start:
        inputs["cold_start"] = read_cold_start(sources.cold_start, sources.storage).fingerprint
    return {"decoding": config.decoding.model_dump(mode="json"), "dtype": config.llm.dtype, "num_chunks": config.num_chunks}, inputs


def _create(output: Location, plan: BackfillPlan) -> None:
    record = {
        "run": plan.run,
        "config": plan.config,
        "inputs": plan.inputs,
        "chunk_rows": {chunk_name(chunk): rows for chunk, rows in plan.chunk_rows.items()},
        "fingerprint": fingerprint_of([plan.run, sorted(plan.chunk_rows.items())]),
    }
    if not (output / PLAN).create_bytes(json.dumps(record, indent=2).encode()):
        is_begun(output, PLAN, "explanations", plan.config, plan.inputs)  # another driver was first: its plan is this run's, or this raises
