"""Job `backfill`: pairs in, explanations artifact out."""

from cluster.connect import ensure_ray
from cluster.preflight import check_cluster
from cluster.room import demand_of_actors
from jobs.output import Output
from jobs.table_text import preview_lines
from xrec.backfill.driver import finish, has_work, retry_reasons, run_backfill
from xrec.backfill.identity import identify, identify_unchecked
from xrec.backfill.plan import open_backfill, pairs_difference, run_request
from xrec.bulk.preview import preview
from xrec.checks import check_word_list
from xrec.config.backfill import BackfillConfig
from xrec.storage import Manifest, check_artifacts


def output(config: BackfillConfig, *, exact: bool = True) -> Output:
    """The explanations that `config` asks for; see jobs.output.

    The pairs are read only if their files changed since the run was planned. Without `exact` it
    takes the language model for the adapter's, and never reads the pairs.
    """
    identity = (identify if exact else identify_unchecked)(config)
    request = run_request(config, identity)
    difference = pairs_difference(request, exact=exact)
    return Output(
        request.output,
        "explanations",
        identity.config,
        identity.inputs,
        unchecked=("pairs",) if difference is None else (),
        known=difference or (),
    )


def run(config: BackfillConfig) -> Manifest | None:
    """Plan, connect to Ray, and explain what is left.

    Returns the manifest, or None if the limit ended the run before it was finished.

    A run that is planned reads no pairs, unless their files changed. One that is done, or has
    reached its limit, starts no cluster. Raises what `open_backfill` and `run_backfill` raise.
    """
    check_artifacts(config, "dataset", "graph", "adapter", "explanations")
    check_word_list(config.decoding.text.checks, config.storage)
    run = open_backfill(config)
    if not has_work(config, run):
        return finish(config, run)
    with ensure_ray(config.ray):
        demand = demand_of_actors(config.actors, config.engine.tensor_parallel_size)
        check_cluster(demand, run.output.uri, config.storage)
        return run_backfill(config, run)


def look_ahead(config: BackfillConfig) -> list[str]:
    """What `run` would do, and what it would cost by a rate that was measured, for a reader.

    Nothing is written, the language model is taken for the adapter's, and pairs are read only if
    `run` would read them. Raises what `open_backfill` raises.
    """
    seen = preview(run_request(config, identify_unchecked(config)))
    return preview_lines(seen, config.actors.num_actors, retry_reasons(config))
