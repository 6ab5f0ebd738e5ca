"""The contestants of the backfill benchmark: xrec's backfill, and plain Ray Data.

Ray Data runs with its own checkpoint and without. All have the same pairs, prompts and an engine
that computes nothing.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import ray.data
from ray.data.checkpoint import CheckpointConfig

from xrec.adapter.pairs import PairPrompts
from xrec.backfill import Lease, draft_plan, pair_batches, run_backfill
from xrec.backfill.explain import explain_pairs
from xrec.backfill.identity import sources_of
from xrec.backfill.worker import WorkerSettings, load_worker_explainer
from xrec.config.backfill import BackfillConfig
from xrec.config.llm import DecodingConfig
from xrec.generate.engine import Completion
from xrec.generate.explainer import Explainer, load_explainer
from xrec.schemas import PAIRS
from xrec.storage import Location, open_location

Record = dict[str, Any]
TEXT = "You would enjoy this quiet corner for its late hours and its garden."


@dataclass(frozen=True)
class NoOpEngine:
    """An engine that answers every prompt with the same text and computes nothing."""

    token_ids: tuple[int, ...]

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: DecodingConfig
    ) -> Iterator[Completion]:
        """Return a completion for each prompt."""
        return (Completion(index, list(self.token_ids), "stop") for index in range(len(prompts)))


def load_no_op(settings: WorkerSettings) -> Explainer:
    """Return the worker's explainer with a `NoOpEngine`."""
    return without_model(load_worker_explainer(settings))


def without_model(real: Explainer) -> Explainer:
    """Return `real` with a `NoOpEngine`."""
    engine = NoOpEngine(tuple(real.pairs.builder.encode_explanation(TEXT)[:-1]))
    return Explainer(
        real.model,
        engine,
        PairPrompts(real.dataset, real.pairs.builder),
        real.dataset,
        real.graph,
        real.model_fingerprint,
    )


def ours(config: BackfillConfig) -> Record:
    """Plan and run, or resume; return the seconds of planning and of all."""
    started = time.perf_counter()
    draft = draft_plan(config, pair_batches(config))
    with Lease.acquire(draft.output, config.lease_seconds).renewed() as lease:
        plan = draft.write()
        planned = time.perf_counter()
        run_backfill(config, plan, lease, load_no_op)
    return {"plan_seconds": planned - started, "seconds": time.perf_counter() - started}


def forget_ours(config: BackfillConfig, share: float) -> int:
    """Delete the last `share` of the chunks of a finished run; return how many are left."""
    output = open_location(config.artifact("explanations"), config.storage)
    for name in ("manifest.json", "_SUCCESS"):
        (output / name).delete()
    return _forget(output / "commits", share)


class _PlainActor:
    """What a user would write for map_batches; returns the rows that xrec's backfill writes."""

    def __init__(self, config: BackfillConfig):
        self._decoding = config.decoding
        self._explainer = without_model(
            load_explainer(sources_of(config), device="cpu", engine=config.engine)
        )

    def __call__(self, batch: pa.Table) -> pa.Table:
        pairs = pa.table({name: batch[name] for name in PAIRS.names}).cast(PAIRS)
        generated, _ = explain_pairs(self._explainer, pairs, self._decoding, "")
        pair_ids = [
            f"{row['user_id']} {row['item_id']}"
            for row in generated.select(PAIRS.names).to_pylist()
        ]
        return generated.append_column("pair_id", pa.array(pair_ids))


def plain_ray(config: BackfillConfig, checkpoint: bool) -> Record:
    """Run read_parquet, map_batches on an actor pool and write_parquet; return the seconds.

    `checkpoint` turns on Ray Data's own checkpoint.
    """
    started = time.perf_counter()
    output = open_location(config.artifact("explanations"), config.storage)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.checkpoint_config = _checkpoint(output) if checkpoint else None
    pairs = ray.data.read_parquet(config.pairs.uri)  # type: ignore[union-attr]
    generated = pairs.map_batches(
        _PlainActor,
        fn_constructor_args=(config,),
        batch_size=config.rows_per_chunk,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=config.actors.num_actors),
        num_cpus=1,
    )
    generated.write_parquet((output / "rows").path, filesystem=output.arrow_filesystem())
    context.checkpoint_config = None
    return {"seconds": time.perf_counter() - started}


def _checkpoint(output: Location) -> CheckpointConfig:
    return CheckpointConfig(
        "pair_id",
        (output / "checkpoint").path,
        delete_checkpoint_on_success=False,
        override_filesystem=output.arrow_filesystem(),
    )


def forget_plain(config: BackfillConfig, share: float) -> int:
    """Delete the last `share` of the checkpoint's files; return how many are left.

    The files with the rows stay, so these rows are written a second time.
    """
    return _forget(
        open_location(config.artifact("explanations"), config.storage) / "checkpoint", share
    )


def _forget(folder: Location, share: float) -> int:
    names = folder.files()
    forgotten = names[-max(1, round(len(names) * share)) :]
    for name in forgotten:
        (folder / name).delete()
    return len(names) - len(forgotten)


CONTESTANTS: dict[str, Callable[[BackfillConfig], Record]] = {
    "ours": ours,
    "ray-plain": lambda config: plain_ray(config, checkpoint=False),
    "ray-checkpoint": lambda config: plain_ray(config, checkpoint=True),
}
FORGET: dict[str, Callable[[BackfillConfig, float], int]] = {
    "ours": forget_ours,
    "ray-checkpoint": forget_plain,
}


def rows_written(name: str, config: BackfillConfig) -> tuple[int, int]:
    """Return the number of rows in the output's Parquet files, and of distinct pairs among them.

    The files of ours are those that its manifest names.
    """
    output = open_location(config.artifact("explanations"), config.storage)
    if name == "ours":
        files = json.loads((output / "manifest.json").read_bytes())["files"]
        paths: Any = [output.at(file).path for file in files if not file.startswith("failed/")]
    else:
        paths = (output / "rows").path
    pairs = pads.dataset(paths, filesystem=output.arrow_filesystem(), format="parquet").to_table(
        columns=PAIRS.names
    )
    return pairs.num_rows, pairs.group_by(PAIRS.names).aggregate([]).num_rows
