"""Explains what is left of a run on actors."""

from xrec.backfill.finish import finish
from xrec.backfill.metrics import BackfillMetrics
from xrec.backfill.progress import ProgressLine
from xrec.backfill.task import EXPLANATIONS, LoadExplainer, explain_task, load_task_explainer
from xrec.bulk import (
    ActorPool,
    BulkRun,
    RunState,
    drive,
    nothing_left,
    tells_what_is_done,
    this_process,
)
from xrec.bulk.ray_actors import gpus_each
from xrec.config.backfill import BackfillConfig
from xrec.storage import Manifest

_MOST_CHUNKS = 16


def has_work(config: BackfillConfig, run: BulkRun) -> bool:
    """True if pairs are left, within the limit if there is one, or failed ones that are retried.

    Raises DataError if the limit is reached and too many of the pairs within it failed.
    """
    state = nothing_left(run, config.limit, config.max_failed_share)
    if state is None:
        return True
    return any(reason in state.failed for reason in retry_reasons(config))


def retry_reasons(config: BackfillConfig) -> tuple[str, ...]:
    """The reasons of failed rows that are to be done again."""
    wanted = config.retry_failed or ()
    return EXPLANATIONS.all_reasons if "all" in wanted else wanted


def chunks_at_once(config: BackfillConfig) -> int:
    """How many chunks an actor works on at the same time.

    Two at least, so that the prompts of the next one enter while the last texts of the one before
    are being written. If chunks are small, as many as have twice the engine's rows: the longest
    text of a chunk takes about twice as long as the others.
    """
    return min(_MOST_CHUNKS, 1 + -(-2 * config.engine.max_rows // config.rows_per_chunk))


def run_backfill(
    config: BackfillConfig, run: BulkRun, load: LoadExplainer = load_task_explainer
) -> Manifest | None:
    """Explain what is left of `run`, retry failed rows if the config says so, and publish.

    Returns what `finish` returns. Ray must be initialised. Raises what `drive` raises. What is
    committed stays then, and the next call goes on from there.
    """
    actors = config.actors
    pool = ActorPool(
        run.worker_settings(
            explain_task(config, run.plan.record.identity, load), chunks_at_once(config)
        ),
        num_actors=actors.num_actors,
        cpus_per_actor=actors.cpus_per_actor,
        gpus_per_actor=gpus_each(
            actors.device, actors.num_actors, config.engine.tensor_parallel_size
        ),
    )
    num_pairs = run.plan.record.num_rows
    metrics = BackfillMetrics(num_pairs)
    with tells_what_is_done(run, "pairs are committed"), ProgressLine(num_pairs) as line:

        def on_commit(state: RunState) -> None:
            metrics.record(state)
            line.show(state)

        drive(
            run,
            pool,
            holder=this_process(),
            retry=retry_reasons(config),
            max_failed_share=config.max_failed_share,
            max_rows=config.limit,
            take_over=config.take_over,
            on_commit=on_commit,
        )
    return finish(config, run)
