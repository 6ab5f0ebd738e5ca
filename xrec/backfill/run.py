"""Explains what is left of a run on actors, and publishes it."""

from xrec.backfill.finish import KIND, after_publishing, describe
from xrec.backfill.metrics import BackfillMetrics
from xrec.backfill.progress import progress_line
from xrec.backfill.task import EXPLANATIONS, LoadExplainer, explain_task, load_task_explainer
from xrec.bulk import BulkRun, Progress, RayPool, complete
from xrec.bulk.driver import has_work as rows_are_left
from xrec.bulk.progress import now
from xrec.bulk.ray_actors import gpus_each
from xrec.config.backfill import BackfillConfig
from xrec.progress import counter
from xrec.storage import Manifest

_MOST_CHUNKS = 16


def has_work(config: BackfillConfig, run: BulkRun) -> bool:
    """True if pairs are left, within the limit if there is one, or failed ones to be retried."""
    return rows_are_left(run, retry=retry_reasons(config), max_rows=config.limit)


def retry_reasons(config: BackfillConfig) -> tuple[str, ...]:
    """The reasons of failed rows that are to be done again."""
    wanted = config.retry_failed or ()
    return EXPLANATIONS.all_reasons if "all" in wanted else wanted


def chunks_at_once(config: BackfillConfig, rows_per_chunk: int) -> int:
    """How many chunks an actor works on at the same time.

    Two at least, so that the prompts of the next one enter while the last texts of the one before
    are being written. If chunks are small, as many as have twice the engine's rows: the longest
    text of a chunk takes about twice as long as the others.
    """
    return min(_MOST_CHUNKS, 1 + -(-2 * config.engine.max_rows // rows_per_chunk))


def run_backfill(
    config: BackfillConfig, run: BulkRun, load: LoadExplainer = load_task_explainer
) -> Manifest | None:
    """Explain what is left of `run`, retry failed rows if the config says so, and publish.

    Returns the manifest; None if the limit ended the run before it was done. Ray must be
    initialised. Raises what `complete` raises; what is done stays then, and the next call goes on.
    """
    actors, size = config.actors, run.record.size
    pool = RayPool(
        max_actors=actors.num_actors,
        min_actors=actors.min_actors,
        cpus=actors.cpus_per_actor,
        gpus=gpus_each(actors.device, actors.num_actors, config.engine.tensor_parallel_size),
    )
    metrics = BackfillMetrics(size.num_rows)
    with counter("pairs", size.num_rows) as show:

        def on_progress(progress: Progress) -> None:
            metrics.record(progress)
            show(progress.num_rows, progress_line(progress, size.num_rows, now()))

        manifest = complete(
            run,
            pool,
            explain_task(config, run.record.identity, load),
            KIND,
            describe(run),
            republish=config.republish,
            chunks_at_once=chunks_at_once(config, -(-size.num_rows // size.num_chunks)),
            retry=retry_reasons(config),
            max_failed_share=config.max_failed_share,
            max_rows=config.limit,
            alongside=config.alongside,
            on_progress=on_progress,
        )
    return None if manifest is None else after_publishing(config, run, manifest)
