"""The actor of a backfill: the model stays in memory, a chunk comes in, its files and its commit record go out."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from xrec.adapter.pairs import Pair
from xrec.backfill.commit import Commit, try_commit
from xrec.backfill.plan import chunk_name, plan_location
from xrec.config import DecodingConfig, Device, EngineConfig
from xrec.errors import UnknownIdError
from xrec.generate.allocator import keep_freed_memory
from xrec.generate.explainer import Explainer, Sources, load_explainer
from xrec.llm.prompt import PromptTooLongError
from xrec.schemas import FAILED, GENERATED, PAIRS
from xrec.storage import content_hash, open_location, parquet_bytes, read_table


@dataclass(frozen=True)
class WorkerSettings:
    """All that an actor knows; it uses nothing else."""

    sources: Sources
    output: str
    decoding: DecodingConfig
    device: Device
    engine: EngineConfig
    num_threads: int


class ChunkWorker:
    """Callable for Ray Data's actor pool: {"chunk": (1,)} in, the chunk's counts out."""

    def __init__(self, settings: WorkerSettings):
        torch.set_num_threads(settings.num_threads)
        keep_freed_memory()
        self._settings = settings
        self._output = open_location(settings.output, settings.sources.storage)
        self._explainer = load_explainer(settings.sources, device=settings.device, engine=settings.engine)

    def __call__(self, batch: dict[str, npt.NDArray[np.int64]]) -> dict[str, Any]:
        """Explain one chunk and commit it."""
        (chunk,) = (int(value) for value in batch["chunk"])
        pairs = read_table(plan_location(self._output, chunk), PAIRS)
        generated, failed = explain_pairs(self._explainer, pairs, self._settings.decoding)
        files = {
            name: hash_
            for folder, table, schema in (("", generated, GENERATED), ("failed/", failed, FAILED))
            if table.num_rows
            for name, hash_ in [self._write(folder, chunk, parquet_bytes(table, schema))]
        }
        reasons = Counter(failed["reason"].to_pylist())
        commit = Commit(chunk=chunk, files=files, num_rows=generated.num_rows, num_failed=failed.num_rows, failed_by_reason=dict(reasons))
        is_first = try_commit(self._output, commit)
        return {"chunk": [chunk], "num_rows": [generated.num_rows], "num_failed": [failed.num_rows], "committed": [is_first]}

    def _write(self, folder: str, chunk: int, data: bytes) -> tuple[str, str]:
        """Write a table under a name that tells chunk and content: attempts never overwrite each other."""
        hash_ = content_hash(data)
        name = f"{folder}part-{chunk_name(chunk)}-{hash_[:8]}.parquet"
        (self._output / name).write_bytes(data)
        return name, hash_


def explain_pairs(explainer: Explainer, pairs: pa.Table, decoding: DecodingConfig) -> tuple[pa.Table, pa.Table]:
    """Explain `pairs` (schema PAIRS): a table of explanations (GENERATED) and one of failed rows (FAILED), by user and item."""
    rows: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    accepted: list[dict[str, str]] = []
    prompts: list[list[int]] = []
    for ids in pairs.to_pylist():
        try:
            prompts.append(_prompt(explainer, ids))
            accepted.append(ids)
        except _RowError as error:
            failures.append({**ids, "reason": error.reason, "message": str(error)})
    for explanation in explainer.explain(prompts, decoding):
        ids = accepted[explanation.index]
        if explanation.failure is not None:
            failures.append({**ids, "reason": explanation.failure.reason, "message": explanation.failure.message})
            continue
        rows.append(
            {
                **ids,
                "explanation": explanation.text,
                "num_prompt_tokens": explanation.num_prompt_tokens,
                "num_generated_tokens": explanation.num_generated_tokens,
                "finish_reason": explanation.finish_reason,
                "model_fingerprint": explainer.model_fingerprint,
            }
        )
    order = [("user_id", "ascending"), ("item_id", "ascending")]
    return pa.Table.from_pylist(rows, GENERATED).sort_by(order), pa.Table.from_pylist(failures, FAILED).sort_by(order)


class _RowError(Exception):
    """A row that cannot be explained; the job goes on."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def _prompt(explainer: Explainer, ids: dict[str, str]) -> list[int]:
    try:
        user_index = explainer.dataset.user_index(ids["user_id"])
    except UnknownIdError as error:
        raise _RowError("unknown_user", str(error)) from error
    try:
        item_index = explainer.dataset.item_index(ids["item_id"])
    except UnknownIdError as error:
        raise _RowError("unknown_item", str(error)) from error
    try:
        return explainer.pairs.prompt(Pair(user_index, item_index))
    except PromptTooLongError as error:
        raise _RowError("prompt_too_long", str(error)) from error
