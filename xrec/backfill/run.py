"""The driver of a backfill: the chunks that are left go through Ray Data's actor pool, the manifest comes last.

It holds the lease and O(chunks) of state: which are committed, and what their records say. Rows it never sees.
"""

import logging
from collections.abc import Callable, Iterator, Mapping

from xrec.actor_pool import gpus_each, map_on_actors
from xrec.backfill.commit import Commit, committed_chunks
from xrec.backfill.content_key import shared_key
from xrec.backfill.finish import finish
from xrec.backfill.generation import RUN, Generation, begin_generation, read_generations
from xrec.backfill.identity import sources_of
from xrec.backfill.lease import Lease
from xrec.backfill.metrics import BackfillMetrics
from xrec.backfill.plan import BackfillPlan
from xrec.backfill.snapshot import Record, read_records, snapshot_of
from xrec.backfill.status import with_status
from xrec.backfill.tally import tally_of
from xrec.backfill.worker import ChunkWorker, WorkerSettings, load_worker_explainer
from xrec.config import BackfillConfig
from xrec.generate.explainer import Explainer
from xrec.storage import Location, Manifest, open_location

logger = logging.getLogger("xrec")

LoadExplainer = Callable[[WorkerSettings], Explainer]


def run_backfill(config: BackfillConfig, plan: BackfillPlan, lease: Lease, load: LoadExplainer = load_worker_explainer) -> Manifest:
    """Explain what is left of `plan`, before that what is to be retried, and finish the artifact. Ray must be initialised.

    Raises DataError as soon as more than `max_failed_share` of all rows failed, LeaseError if another driver took the run
    over; what is committed stays, a new run goes on from there.
    """
    try:
        if config.retry_failed is not None:
            _retry(config, plan, lease, load)
        known = _run_generation(config, plan, RUN, {chunk: planned.pairs for chunk, planned in plan.chunks.items()}, lease, load)
    except KeyboardInterrupt:
        done = len(committed_chunks(plan.output))
        logger.warning("stopped: %d of %d chunks are committed; run the same command again to go on with the others", done, len(plan.chunks))
        raise
    lease.check()
    return finish(plan, config.max_failed_share, config.price_per_actor_hour, known)


def _retry(config: BackfillConfig, plan: BackfillPlan, lease: Lease, load: LoadExplainer) -> None:
    """Finish a retry that was interrupted; if it was not this one, begin this one."""
    reasons = () if config.retry_failed == "all" else (str(config.retry_failed),)
    last = read_generations(plan.output)[-1]
    if last.kind == "retry" and _retry_inputs(plan.output, last):
        logger.info("the retry of %s that was interrupted goes on", " ".join(last.reasons) or "all failed rows")
        _run_generation(config, plan, last, _retry_inputs(plan.output, last), lease, load)
        if last.reasons == reasons:
            return
    generation = begin_generation(plan.output, "retry", reasons)
    _run_generation(config, plan, generation, _retry_inputs(plan.output, generation), lease, load)


def _retry_inputs(output: Location, generation: Generation) -> dict[int, str]:
    """The chunks that a retry has still to do, each with the file of its failed rows."""
    before = snapshot_of(record for record in read_records(output) if record.generation.number < generation.number)
    done = committed_chunks(generation.root(output))
    wanted = {chunk: commit for chunk, commit in before.failed.items() if any(map(generation.retries, commit.failed_by_reason))}
    return {chunk: name for chunk, commit in wanted.items() if chunk not in done for name in commit.failed_files}


def _run_generation(
    config: BackfillConfig, plan: BackfillPlan, generation: Generation, inputs: Mapping[int, str], lease: Lease, load: LoadExplainer
) -> list[Record]:
    """Do the chunks of `inputs` that are not committed; returns what was committed before."""
    left = sorted(inputs.keys() - committed_chunks(generation.root(plan.output)))
    logger.info("%d pairs in %d chunks; %s: %d chunks left", plan.num_rows, len(plan.chunks), generation.kind, len(left))
    records = read_records(plan.output)
    if not left:
        return records
    snapshot = snapshot_of(records)
    tally = tally_of(snapshot)
    num_left = plan.num_rows - snapshot.num_rows
    if generation.kind == "run":
        tally.check(plan, config.max_failed_share)
    else:
        num_left = sum(snapshot.failed[chunk].num_failed for chunk in left)
    metrics = BackfillMetrics(num_left)
    for commit in with_status(_explain_chunks(config, plan, generation, {chunk: inputs[chunk] for chunk in left}, load), num_left):
        lease.check()
        metrics.record(commit)
        if generation.kind == "run":
            tally.add(commit)
            tally.check(plan, config.max_failed_share)
    return records


def _explain_chunks(
    config: BackfillConfig, plan: BackfillPlan, generation: Generation, inputs: Mapping[int, str], load: LoadExplainer
) -> Iterator[Commit]:
    """Yield each chunk's record as it is committed."""
    actors, settings = config.actors, worker_settings(config, plan, generation, load)
    num_actors = min(actors.num_actors, len(inputs))
    rows = map_on_actors(
        ChunkWorker,
        settings,
        [{"chunk": chunk, "input": source} for chunk, source in inputs.items()],
        min_actors=min(actors.min_actors or num_actors, num_actors),
        max_actors=num_actors,
        cpus_per_actor=actors.cpus_per_actor,
        gpus_per_actor=gpus_each(actors.device, actors.num_actors, config.engine.tensor_parallel_size),
    )
    for row in rows:
        yield Commit.model_validate_json(row["commit"])


def worker_settings(
    config: BackfillConfig, plan: BackfillPlan, generation: Generation = RUN, load: LoadExplainer = load_worker_explainer
) -> WorkerSettings:
    """What the actors of `config` are given."""
    return WorkerSettings(
        sources=sources_of(config),
        output=plan.output.shared_uri,
        run=plan.identity.run,
        decoding=config.decoding,
        device=config.actors.device,
        engine=config.engine,
        num_threads=config.actors.cpus_per_actor,
        shared_key=shared_key(plan.identity),
        carry_from=open_location(config.carry_from, config.storage).shared_uri if config.carry_from else None,
        num_chunks=plan.num_chunks,
        generation=generation,
        load=load,
    )
