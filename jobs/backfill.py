"""Job `backfill`: pairs in, explanations artifact out."""

import logging

from cluster.connect import ensure_ray
from cluster.preflight import check_cluster
from cluster.room import demand_of_actors
from jobs.output import Output
from xrec.backfill import (
    Lease,
    RunIdentity,
    clean,
    compact,
    draft_plan,
    finish,
    pair_batches,
    read_plan,
    run_backfill,
)
from xrec.backfill.identity import identify, identify_unchecked, output_uri
from xrec.backfill.plan import PLAN, SUCCESS
from xrec.backfill.spill import PairSpill
from xrec.config.backfill import BackfillConfig, SplitPairs
from xrec.llm.source import folder_uris
from xrec.storage import (
    Manifest,
    check_artifacts,
    location_of,
    open_location,
    read_manifest,
)

logger = logging.getLogger("xrec")


def output(config: BackfillConfig, *, exact: bool = True) -> Output:
    """The explanations that `config` asks for; see jobs.output.

    Reads all pairs, and looks at the language model. Without `exact` it takes the language model
    for the adapter's, and reads the pairs only if they are those of a split, which are few, or if
    the place of a new run depends on them.
    """
    if exact or config.new_run or isinstance(config.pairs, SplitPairs):
        spill = PairSpill(pair_batches(config))
        spill.delete()
        pairs, unchecked = spill.fingerprint, tuple[str, ...]()
    else:
        pairs, unchecked = "", ("pairs",)
    identity = (identify if exact else identify_unchecked)(config, pairs)
    return Output(
        open_location(output_uri(config, identity.run), config.storage),
        "explanations",
        identity.config,
        identity.inputs,
        unchecked=unchecked,
        records=(PLAN,),
        completed_by=SUCCESS,
    )


def run(config: BackfillConfig) -> Manifest:
    """Plan, take the lease, connect to Ray, and explain what is left; returns the manifest.

    A run that is finished does no work and starts no cluster. Raises what `draft_plan` raises,
    LeaseError if another driver works on the run, ClusterError.
    """
    check_artifacts(config, "dataset", "graph", "adapter", "explanations")
    draft = draft_plan(config, pair_batches(config))
    if draft.done is not None and config.retry_failed is None:
        return draft.done
    with (
        Lease.acquire(draft.output, config.lease_seconds).renewed() as lease,
        ensure_ray(config.ray),
    ):
        reads = [
            *(config.artifact(name) for name in ("dataset", "graph", "adapter")),
            *folder_uris(config.llm.model),
        ]
        demand = demand_of_actors(config.actors, config.engine.tensor_parallel_size)
        check_cluster(demand, reads=reads, writes=[draft.output.uri], storage=config.storage)
        return run_backfill(config, draft.write(), lease)


def clean_output(config: BackfillConfig) -> int:
    """Delete the files of `explanations` that no longer count; returns their number."""
    check_artifacts(config, "explanations")
    output = location_of(config, "explanations")
    with Lease.acquire(output, config.lease_seconds).renewed():
        return clean(output, config.garbage_hours)


def compact_output(config: BackfillConfig) -> Manifest:
    """Make few large files of the many small ones of `explanations`, a finished run."""
    check_artifacts(config, "explanations")
    output = location_of(config, "explanations")
    manifest = read_manifest(output, "explanations")
    plan = read_plan(output, RunIdentity(manifest.config, manifest.inputs))
    with Lease.acquire(output, config.lease_seconds).renewed() as lease:
        compact(plan, lease, round(config.compact_mib * 2**20))
        return finish(plan, max_failed_share=1.0, price_per_actor_hour=config.price_per_actor_hour)


if __name__ == "__main__":
    from jobs.command.commands import run_job

    run_job("backfill")
