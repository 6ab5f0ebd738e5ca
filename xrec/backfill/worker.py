"""The actor of a backfill: it keeps the model in memory, explains chunks and commits them."""

import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from xrec.backfill.attempts import Attempts, Outcome
from xrec.backfill.carry import Carried, EarlierRun
from xrec.backfill.chunk import part_name
from xrec.backfill.commit import (
    FAILED_FOLDER,
    Commit,
    EngineWork,
    Work,
    commit_location,
    try_commit,
)
from xrec.backfill.explain import (
    content_keys,
    explain_or_fail,
    failed_rows,
    name_no_other_item,
)
from xrec.backfill.generation import RUN, Generation
from xrec.backfill.plan import read_chunk_pairs
from xrec.config.llm import DecodingConfig, EngineConfig
from xrec.config.shared import Device
from xrec.generate.engine_report import EngineReport
from xrec.generate.explainer import Explainer, Sources, load_explainer
from xrec.schemas import FAILED, GENERATED, PAIRS
from xrec.storage import content_hash, open_location, parquet_bytes, read_table

_BY_PAIR = [("user_id", "ascending"), ("item_id", "ascending")]


def load_worker_explainer(settings: "WorkerSettings") -> Explainer:
    """Load the explainer of an actor."""
    return load_explainer(settings.sources, device=settings.device, engine=settings.engine)


@runtime_checkable
class ReportingEngine(Protocol):
    """An engine that reports what its latest call cost; an engine need not do so."""

    report: EngineReport


@dataclass(frozen=True)
class WorkerSettings:
    """Everything that an actor gets; it reads no other settings and no environment."""

    sources: Sources
    output: str
    run: str
    decoding: DecodingConfig
    device: Device
    engine: EngineConfig
    num_threads: int
    shared_key: str
    carry_from: str | None = None
    num_chunks: int = 1
    generation: Generation = RUN
    load: "Callable[[WorkerSettings], Explainer]" = load_worker_explainer


class ChunkWorker:
    """The callable of Ray Data's actor pool.

    It is called with {"chunk": (1,), "input": (1,)} and returns the chunk's commit record as JSON.
    In the run, `input` is the hash of the chunk's pairs in the plan; in a retry it is the file of
    the chunk's failed rows.
    """

    def __init__(self, settings: WorkerSettings):
        torch.set_num_threads(settings.num_threads)
        self._settings = settings
        self._output = open_location(settings.output, settings.sources.storage)
        self._root = settings.generation.root(self._output)
        self._explainer = settings.load(settings)
        self._calls: list[EngineWork] = []
        self._earlier = (
            EarlierRun(
                open_location(settings.carry_from, settings.sources.storage), settings.num_chunks
            )
            if settings.carry_from is not None
            else None
        )

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
        """Explain one chunk and commit it, unless it is committed already."""
        (chunk,) = (int(value) for value in batch["chunk"])
        (source,) = (str(value) for value in batch["input"])
        if commit_location(self._root, chunk).is_file():
            commit, is_first = Commit.read(self._root, chunk), False
        else:
            commit = self._explain(chunk, source)
            is_first = try_commit(self._root, commit)
            commit = commit if is_first else Commit.read(self._root, chunk)
        return {"commit": [commit.model_dump_json()], "is_first": np.array([is_first])}

    def _explain(self, chunk: int, source: str) -> Commit:
        started_at = time.time()
        self._calls.clear()
        pairs, kept = self._read(chunk, source)
        carried = self._carried(chunk, pairs)
        attempts = Attempts(self._root, chunk, carried.left.num_rows)
        num_deaths = attempts.num_deaths
        parts = (
            attempts.explain(
                partial(self._explain_rows, carried.left), partial(self._condemn, carried.left)
            )
            if carried.left.num_rows
            else []
        )
        generated = pa.concat_tables([GENERATED.empty_table(), *(part.generated for part in parts)])
        failed = pa.concat_tables([kept, *(part.failed for part in parts)]).sort_by(_BY_PAIR)
        written = pa.concat_tables([carried.copied, generated]).sort_by(_BY_PAIR)
        new_files = [
            *self._write("", chunk, written, GENERATED),
            *self._write(FAILED_FOLDER, chunk, failed, FAILED),
        ]
        return Commit(
            chunk=chunk,
            files={**carried.files, **dict(new_files)},
            num_rows=carried.num_rows + generated.num_rows,
            num_failed=failed.num_rows,
            failed_by_reason=dict(Counter(failed["reason"].to_pylist())),
            num_carried=carried.num_rows,
            work=self._work(generated, started_at, num_deaths),
        )

    def _carried(self, chunk: int, pairs: pa.Table) -> Carried:
        """Return which pairs are carried from an earlier run; in a retry none are."""
        if self._earlier is None or self._settings.generation.kind != "run":
            return Carried({}, 0, GENERATED.empty_table(), pairs)
        keys = content_keys(self._explainer, pairs, self._settings.shared_key)
        return self._earlier.carry(chunk, pairs, keys, partial(name_no_other_item, self._explainer))

    def _explain_rows(self, pairs: pa.Table, start: int, stop: int) -> Outcome:
        result = explain_or_fail(
            self._explainer,
            pairs.slice(start, stop - start),
            self._settings.decoding,
            self._settings.shared_key,
        )
        if isinstance(self._explainer.engine, ReportingEngine):
            report = self._explainer.engine.report
            self._calls.append(
                EngineWork(**{name: getattr(report, name) for name in EngineWork.model_fields})
            )
        return result

    def _condemn(self, pairs: pa.Table, row: int, deaths: int) -> Outcome:
        """Return the row as failed, after `deaths` processes died with this row alone."""
        message = (
            f"{deaths} processes died while they worked on this row alone; "
            "the engine cannot take its prompt"
        )
        failures = [
            {**ids, "reason": "engine_error", "message": message}
            for ids in pairs.slice(row, 1).to_pylist()
        ]
        return Outcome(GENERATED.empty_table(), failed_rows(self._explainer, failures))

    def _read(self, chunk: int, source: str) -> tuple[pa.Table, pa.Table]:
        """Return the pairs to explain (PAIRS), and failed rows that stay as they are (FAILED)."""
        generation = self._settings.generation
        if generation.kind == "run":
            pairs = read_chunk_pairs(self._output, self._settings.run, chunk, source)
            return pairs, FAILED.empty_table()
        failed = read_table(self._output / source, FAILED)
        again = pa.array(
            [generation.retries(reason) for reason in failed["reason"].to_pylist()], pa.bool_()
        )
        return failed.filter(again).select(PAIRS.names), failed.filter(pc.invert(again))

    def _write(
        self, folder: str, chunk: int, table: pa.Table, schema: pa.Schema
    ) -> list[tuple[str, str]]:
        """Write a table; returns its name and content hash, or nothing if it has no rows."""
        if not table.num_rows:
            return []
        data = parquet_bytes(table, schema)
        name = part_name(folder, chunk, content_hash(data))
        (self._output / name).write_bytes(data)
        return [(name, content_hash(data))]

    def _work(self, generated: pa.Table, started_at: float, num_deaths: int) -> Work:
        lengths = generated["num_generated_tokens"].to_pylist()
        return Work(
            actor=f"{socket.gethostname()}:{os.getpid()}",
            started_at=started_at,
            seconds=time.time() - started_at,
            num_prompt_tokens=pc.sum(generated["num_prompt_tokens"]).as_py() or 0,
            num_generated_tokens=sum(lengths),
            generated_lengths=dict(Counter(length // 10 * 10 for length in lengths)),
            num_deaths=num_deaths,
            engine=EngineWork.sum(self._calls)
            if isinstance(self._explainer.engine, ReportingEngine)
            else None,
        )
