"""Plans a backfill, explains what is left on actors, and publishes the result."""

import logging
import os
import socket
from collections.abc import Callable

from xrec.actor_pool import gpus_each
from xrec.backfill.identity import identify, output_uri
from xrec.backfill.metrics import BackfillMetrics
from xrec.backfill.pairs import pair_batches, pairs_listing
from xrec.backfill.progress import ProgressLine
from xrec.backfill.publish import publish, published
from xrec.backfill.report import REPORT, write_report
from xrec.backfill.task import EXPLANATIONS, LoadExplainer, explain_task, load_task_explainer
from xrec.bulk import ActorPool, BulkRun, RunState, drive, open_run, read_state
from xrec.config.backfill import BackfillConfig
from xrec.storage import Manifest

logger = logging.getLogger("xrec")


def open_backfill(config: BackfillConfig) -> BulkRun:
    """Plan the run of `config`, or open the plan that is there; pairs are read only if need be.

    Raises ArtifactMismatchError, which names the fields that differ, if the output holds another
    run; what `identify`, `pair_batches` and `open_run` raise.
    """
    identity = identify(config)
    return open_run(
        output_uri(config, identity.run),
        identity,
        EXPLANATIONS,
        lambda: pair_batches(config),
        listing=pairs_listing(config),
        rows_per_chunk=config.rows_per_chunk,
        carry_from=config.carry_from,
        storage=config.storage,
    )


def has_work(config: BackfillConfig, run: BulkRun) -> bool:
    """True if pairs are left, or failed ones that `config` retries."""
    _, state = read_state(run.table, run.table.newest_version())
    if state is None or state.state != "finished":
        return True
    return any(reason in state.failed for reason in retry_reasons(config))


def retry_reasons(config: BackfillConfig) -> tuple[str, ...]:
    """The reasons of failed rows that are to be done again."""
    wanted = config.retry_failed or ()
    return EXPLANATIONS.all_reasons if "all" in wanted else wanted


def run_backfill(
    config: BackfillConfig, run: BulkRun, load: LoadExplainer = load_task_explainer
) -> Manifest:
    """Explain what is left of `run`, retry failed rows if the config says so, and publish.

    Ray must be initialised. Raises what `drive` raises. What is committed stays then, and the next
    call goes on from there.
    """
    actors = config.actors
    pool = ActorPool(
        run.worker_settings(explain_task(config, run.plan.record.identity, load)),
        num_actors=actors.num_actors,
        cpus_per_actor=actors.cpus_per_actor,
        gpus_per_actor=gpus_each(
            actors.device, actors.num_actors, config.engine.tensor_parallel_size
        ),
    )
    num_pairs = run.plan.record.num_rows
    watchers: list[Callable[[RunState], None]] = [BackfillMetrics(num_pairs).record]
    try:
        with ProgressLine(num_pairs) as line:
            watchers.append(line.show)
            drive(
                run,
                pool,
                holder=f"{socket.gethostname()}, process {os.getpid()}",
                retry=retry_reasons(config),
                max_failed_share=config.max_failed_share,
                take_over=config.take_over,
                on_commit=lambda state: [watch(state) for watch in watchers] and None,
            )
    except KeyboardInterrupt:
        _, state = read_state(run.table, run.table.newest_version())
        logger.warning(
            "stopped: %d of %d pairs are committed; run the same command again to go on with the "
            "others",
            state.num_rows if state else 0,
            num_pairs,
        )
        raise
    return finish(config, run)


def finish(config: BackfillConfig, run: BulkRun) -> Manifest:
    """Publish a finished run, with its report, and return the manifest.

    Nothing is written if that was done before.
    """
    before, manifest = published(run), publish(run)
    assert manifest is not None
    assert manifest.version is not None
    if manifest != before or not (run.plan.output / REPORT).is_file():
        _, state = read_state(run.table, manifest.version)
        assert state is not None
        write_report(run.table, manifest.version, state, config.price_per_actor_hour)
    return manifest
