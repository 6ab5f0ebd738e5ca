"""The driver of a backfill: it sends the chunks that are left through Ray Data's actor pool.

The manifest is written at the end. The driver holds the lease, and keeps the commit records of the
chunks in memory, but no pairs and no explanations.
"""

import logging
from collections.abc import Callable, Iterator, Mapping

from xrec.actor_pool import gpus_each, map_on_actors
from xrec.backfill.commit import FAILED_FOLDER, Commit, committed_chunks
from xrec.backfill.content_key import shared_key
from xrec.backfill.finish import finish
from xrec.backfill.generation import RUN, Generation, begin_generation, read_generations
from xrec.backfill.identity import sources_of
from xrec.backfill.lease import Lease
from xrec.backfill.metrics import BackfillMetrics
from xrec.backfill.plan import BackfillPlan, PlannedChunk
from xrec.backfill.snapshot import RecordLog, snapshot_of
from xrec.backfill.status import with_status
from xrec.backfill.tally import Tally, tally_of
from xrec.backfill.worker import ChunkWorker, WorkerSettings, load_worker_explainer
from xrec.config.backfill import BackfillConfig
from xrec.generate.explainer import Explainer
from xrec.storage import Location, Manifest, open_location

logger = logging.getLogger("xrec")

LoadExplainer = Callable[[WorkerSettings], Explainer]


def run_backfill(
    config: BackfillConfig,
    plan: BackfillPlan,
    lease: Lease,
    load: LoadExplainer = load_worker_explainer,
) -> Manifest:
    """Retry failed rows if the config says so, explain what is left of `plan`, write the manifest.

    Ray must be initialised. Raises DataError as soon as more than `max_failed_share` of all rows
    failed, and LeaseError if another driver took the run over. What is committed stays then, and
    the next run goes on from there.
    """
    log = RecordLog(plan.output)
    try:
        if config.retry_failed is not None:
            _retry(config, plan, log, lease, load)
        _run_generation(config, plan, RUN, plan.chunks, log, lease, load)
    except KeyboardInterrupt:
        logger.warning(
            "stopped: %d of %d chunks are committed; "
            "run the same command again to go on with the others",
            len(committed_chunks(plan.output)),
            len(plan.chunks),
        )
        raise
    lease.check()
    return finish(plan, config.max_failed_share, config.price_per_actor_hour, log)


def _retry(
    config: BackfillConfig, plan: BackfillPlan, log: RecordLog, lease: Lease, load: LoadExplainer
) -> None:
    """Finish a retry that was interrupted, then do the retry of `config` if it is another one."""
    reasons = () if config.retry_failed == "all" else (str(config.retry_failed),)
    last = read_generations(plan.output)[-1]
    if last.kind == "retry" and (inputs := _retry_inputs(plan.output, last, log)):
        what = " ".join(last.reasons) or "all failed rows"
        logger.info("an interrupted retry of %s goes on", what)
        _run_generation(config, plan, last, inputs, log, lease, load)
        if last.reasons == reasons:
            return
    generation = begin_generation(plan.output, "retry", reasons)
    inputs = _retry_inputs(plan.output, generation, log)
    _run_generation(config, plan, generation, inputs, log, lease, load)


def _retry_inputs(
    output: Location, generation: Generation, log: RecordLog
) -> dict[int, PlannedChunk]:
    """Return the chunks that a retry must still do, each with the file of its failed rows."""
    before = snapshot_of(
        record for record in log.read() if record.generation.number < generation.number
    )
    done = committed_chunks(generation.root(output))
    wanted = {
        chunk: commit
        for chunk, commit in before.failed.items()
        if any(map(generation.retries, commit.failed_by_reason))
    }
    return {
        chunk: PlannedChunk(rows=commit.num_failed, pairs=name)
        for chunk, commit in wanted.items()
        if chunk not in done
        for name in commit.failed_files
    }


def _run_generation(
    config: BackfillConfig,
    plan: BackfillPlan,
    generation: Generation,
    inputs: Mapping[int, PlannedChunk],
    log: RecordLog,
    lease: Lease,
    load: LoadExplainer,
) -> None:
    """Do the chunks of `inputs` that are not committed in `generation`."""
    left = {
        chunk: inputs[chunk]
        for chunk in sorted(inputs.keys() - committed_chunks(generation.root(plan.output)))
    }
    logger.info(
        "%d pairs in %d chunks; %s: %d chunks left",
        plan.num_rows,
        len(plan.chunks),
        generation.kind,
        len(left),
    )
    if not left:
        return
    num_left = sum(chunk.rows for chunk in left.values())
    log.read_ahead()  # all records are needed at the end, and can be read while the actors load
    tally = _tally(plan, num_left, log) if generation.kind == "run" else None
    if tally is not None:
        tally.check(plan, config.max_failed_share)
    metrics = BackfillMetrics(num_left)
    for commit in with_status(_explain_chunks(config, plan, generation, left, load), num_left):
        lease.check()
        log.add(generation, commit)
        metrics.record(commit)
        if tally is not None:
            tally.add(commit)
            tally.check(plan, config.max_failed_share)


def _tally(plan: BackfillPlan, num_left: int, log: RecordLog) -> Tally:
    """Return the counts of a run of which `num_left` pairs are not committed.

    This waits for the records to be read only if there are failed rows.
    """
    if not (plan.output / FAILED_FOLDER).files():
        return Tally(plan.num_rows - num_left)
    return tally_of(snapshot_of(log.read()))


def _explain_chunks(
    config: BackfillConfig,
    plan: BackfillPlan,
    generation: Generation,
    inputs: Mapping[int, PlannedChunk],
    load: LoadExplainer,
) -> Iterator[Commit]:
    """Send the chunks of `inputs` to the actors, and yield each chunk's record as it arrives."""
    actors, settings = config.actors, worker_settings(config, plan, generation, load)
    num_actors = min(actors.num_actors, len(inputs))
    rows = map_on_actors(
        ChunkWorker,
        settings,
        [{"chunk": chunk, "input": planned.pairs} for chunk, planned in inputs.items()],
        min_actors=min(actors.min_actors or num_actors, num_actors),
        max_actors=num_actors,
        cpus_per_actor=actors.cpus_per_actor,
        gpus_per_actor=gpus_each(
            actors.device, actors.num_actors, config.engine.tensor_parallel_size
        ),
    )
    for row in rows:
        yield Commit.model_validate_json(row["commit"])


def worker_settings(
    config: BackfillConfig,
    plan: BackfillPlan,
    generation: Generation = RUN,
    load: LoadExplainer = load_worker_explainer,
) -> WorkerSettings:
    """Return the settings of the actors that work on `generation`."""
    return WorkerSettings(
        sources=sources_of(config),
        output=plan.output.shared_uri,
        run=plan.identity.run,
        decoding=config.decoding,
        device=config.actors.device,
        engine=config.engine,
        num_threads=config.actors.cpus_per_actor,
        shared_key=shared_key(plan.identity),
        carry_from=open_location(config.carry_from, config.storage).shared_uri
        if config.carry_from
        else None,
        num_chunks=plan.num_chunks,
        generation=generation,
        load=load,
    )
