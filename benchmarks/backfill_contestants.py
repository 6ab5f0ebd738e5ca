"""The contestants of the backfill benchmark: xrec's backfill, and plain Ray Data.

Ray Data runs with its own checkpoint and without. All have the same pairs, prompts and an engine
that computes nothing.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import ray.data
from ray.data.checkpoint import CheckpointConfig

from xrec.adapter.pairs import PairPrompts
from xrec.backfill import open_backfill, read, run_backfill
from xrec.backfill.explain import explain_pairs
from xrec.backfill.identity import sources_of
from xrec.backfill.task import MakeExplainTask, load_task_explainer
from xrec.bulk import read_state
from xrec.config.backfill import BackfillConfig
from xrec.config.decoding import DecodingConfig
from xrec.generate.engine import Completion
from xrec.generate.explainer import Explainer
from xrec.generate.loading import load_explainer
from xrec.schemas import PAIRS
from xrec.storage import MANIFEST, Location, open_location

Record = dict[str, Any]
TEXT = "You would enjoy this quiet corner for its late hours and its garden."


@dataclass(frozen=True)
class NoOpEngine:
    """An engine that answers every prompt with the same text and computes nothing."""

    token_ids: tuple[int, ...]

    def generate(
        self, prompts: Sequence[Sequence[int]], decoding: DecodingConfig, is_refused: object = None
    ) -> Iterator[Completion]:
        """Return a completion for each prompt."""
        return (Completion(index, list(self.token_ids), "stop") for index in range(len(prompts)))


def load_no_op(made: MakeExplainTask) -> Explainer:
    """Return an actor's explainer with a `NoOpEngine`."""
    return without_model(load_task_explainer(made))


def without_model(real: Explainer) -> Explainer:
    """Return `real` with a `NoOpEngine`."""
    engine: Any = NoOpEngine(tuple(real.pairs.builder.encode_explanation(TEXT)[:-1]))
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
    run = open_backfill(config)
    planned = time.perf_counter()
    run_backfill(config, run, load_no_op)
    return {"plan_seconds": planned - started, "seconds": time.perf_counter() - started}


def forget_ours(config: BackfillConfig, share: float) -> int:
    """Take the last `share` of the files out of a finished run; return how many are left.

    What is left is a run that was interrupted.
    """
    run = open_backfill(config)
    writer = run.table.take_over("benchmark")
    _, state = read_state(run.table, writer.version)
    assert state is not None
    files = writer.snapshot().files().sort_by("path")
    forgotten = files.slice(files.num_rows - max(1, round(files.num_rows * share)))
    num_rows = sum(forgotten["num_rows"].to_pylist())
    left = {"num_ok": state.num_ok - num_rows, "num_ok_rows": state.num_ok_rows - num_rows}
    metadata = state.model_copy(update={"state": "running", **left}).metadata()
    writer.commit([], forgotten["path"].to_pylist(), metadata)
    (run.plan.output / MANIFEST).delete()
    return int(files.num_rows - forgotten.num_rows)


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
    """Return the number of rows in the output, and of distinct pairs among them."""
    uri = config.artifact("explanations")
    if name == "ours":
        dataset = read(uri, storage=config.storage)
    else:
        output = open_location(uri, config.storage)
        filesystem = output.arrow_filesystem()
        dataset = pads.dataset((output / "rows").path, filesystem=filesystem, format="parquet")
    pairs = dataset.to_table(columns=PAIRS.names)
    return pairs.num_rows, pairs.group_by(PAIRS.names).aggregate([]).num_rows
