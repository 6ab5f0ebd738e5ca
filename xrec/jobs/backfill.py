"""Explain recommendations in bulk.

One commit at the end publishes the pairs with their ranks and explanations, or the reasons why they
have none. Run the same command again to continue after an interruption.

In:   <workspace>/dataset, graph, adapter and recommendations, llm.model
Out:  <workspace>/explanations: a Delta table with a row for each recommended pair

Examples:
  xrec backfill configs/yelp.yaml limit=1000
  xrec backfill configs/yelp.yaml 'retry_failed=[engine_error]'
"""

from xrec.backfill.identity import identify, identify_unchecked
from xrec.backfill.plan import open_backfill, pairs_difference, retry_reasons, run_request
from xrec.backfill.preview import preview_lines
from xrec.bulk import preview
from xrec.config import BackfillConfig
from xrec.jobs.output import Output
from xrec.nights import make_gate
from xrec.storage import Manifest


def output(config: BackfillConfig, *, exact: bool = True) -> Output:
    """Return the job's output; reads the pairs only if their files changed since the run's plan.

    Without `exact`, trusts the adapter about the language model, and never reads the pairs.
    """
    identity = (identify if exact else identify_unchecked)(config)
    request = run_request(config, identity)
    difference = pairs_difference(request, exact=exact)
    unchecked: tuple[str, ...] = ("pairs",) if difference is None else ()
    if config.writer == "words" and "base_model" not in identity.inputs:
        unchecked += ("base_model",)
    return Output(
        request.output,
        "explanations",
        identity.config,
        identity.inputs,
        unchecked=unchecked,
        known=difference or (),
    )


def run(config: BackfillConfig) -> Manifest | None:
    """Plan the run, and explain the remaining pairs on Ray.

    Returns None if the limit ended the run. Raises what `open_backfill` and `run_backfill` raise.
    """
    from xrec.backfill.driver import finish, has_work, run_backfill
    from xrec.cluster import demand_of_actors, ready_cluster

    run = open_backfill(config)
    gate = make_gate(config, run)
    if not has_work(config, run):
        return finish(config, run, gate)
    demand = demand_of_actors(config.actors, config.gpus_per_process)
    with ready_cluster(config, "explanations", demand):
        return run_backfill(config, run, gate=gate)


def look_ahead(config: BackfillConfig) -> list[str]:
    """Describe what `run` would do and cost, without writing anything.

    Reads pairs only if `run` would. Raises what `open_backfill` raises.
    """
    left = preview(run_request(config, identify_unchecked(config)))
    return preview_lines(left, config.num_processes, retry_reasons(config))
