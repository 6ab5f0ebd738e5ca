"""Job `backfill`: pairs in, explanations artifact out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from xrec.backfill.gate import judge, sample_of, side_by_side
from xrec.backfill.identity import identify, identify_unchecked
from xrec.backfill.plan import open_backfill, pairs_difference, retry_reasons, run_request
from xrec.bulk import AGAIN, BulkRun, Preview, open_run, preview
from xrec.checks import check_word_list
from xrec.config.backfill import BackfillConfig
from xrec.errors import ArtifactNotFoundError
from xrec.jobs.output import Output, candidates
from xrec.progress import duration, short
from xrec.storage import Manifest, check_artifacts


def output(config: BackfillConfig, *, exact: bool = True) -> Output:
    """The explanations that `config` asks for; see xrec.jobs.output.

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
    """Plan, and explain what is left on Ray; returns the manifest, None if the limit ended it.

    A run that has reached its limit starts no cluster. Raises what `open_backfill` and
    `run_backfill` raise.
    """
    from xrec.backfill.driver import finish, has_work, run_backfill
    from xrec.cluster.connect import ensure_ray
    from xrec.cluster.preflight import check_cluster, demand_of_actors

    check_artifacts(config, "dataset", "graph", "adapter", "explanations")
    check_word_list(config.decoding.text.checks, config.storage)
    run = open_backfill(config)
    if not has_work(config, run):
        return finish(config, run)
    with ensure_ray(config.ray):
        demand = demand_of_actors(config.actors, config.engine.tensor_parallel_size)
        check_cluster(demand, run.output.uri, config.storage)
        return run_backfill(config, run)


def publish(config: BackfillConfig, force: str = "") -> Manifest:
    """Publish a run that is done, if its gate lets it through or `force` says why nevertheless.

    It is that of the last night, if one is not published, else that of the present artifacts.
    Raises ArtifactNotFoundError if none was planned and done, and what `finish` raises.
    """
    from xrec.backfill.driver import finish

    config, run = _candidate(config)
    manifest = finish(config, run, force)
    assert manifest is not None
    return manifest


def look_at_candidate(config: BackfillConfig) -> Iterator[str]:
    """The gate's figures of a run that is done, and pairs of it beside what is published."""
    config, run = _candidate(config)
    sample = sample_of(run)
    yield from map(str, judge(config, run, sample))
    yield f"of {len(sample.new):,} explanations, beside version {sample.version}"
    yield from side_by_side(sample.new, sample.old)


def _candidate(config: BackfillConfig) -> tuple[BackfillConfig, BulkRun]:
    for each in candidates(config):
        check_artifacts(each, "dataset", "graph", "adapter", "explanations")
        request = run_request(each, identify(each))
        run = None if request.planned() is None else open_run(request)
        if run is not None and all(one.is_done for one in run.passes()):
            return each, run
    raise ArtifactNotFoundError(
        f"{config.artifact('explanations')}: no run of these settings and pairs is done there; run "
        "xrec backfill or refresh, which goes on with one that was begun",
        code="no_finished_run",
        saw=config.artifact("explanations"),
    )


def look_ahead(config: BackfillConfig) -> list[str]:
    """What `run` would do, and what it would cost by a rate that was measured, for a reader.

    Nothing is written, the language model is taken for the adapter's, and pairs are read only if
    `run` would read them. Raises what `open_backfill` raises.
    """
    seen = preview(run_request(config, identify_unchecked(config)))
    return preview_lines(seen, config.actors.num_actors, retry_reasons(config))


def preview_lines(preview: Preview, num_actors: int, retry: Sequence[str] = ()) -> list[str]:
    """What a backfill would do; `retry` are the reasons of failed pairs that are done again."""
    lines = [f"{preview.num_rows:,} pairs in {preview.num_chunks:,} chunks"]
    if preview.rejected:
        lines.append(f"left out: {reasons_text(preview.rejected)}")
    if preview.status and (progress := preview.status.progress) is not None:
        failed = f" ({reasons_text(progress.failed)})" if progress.failed else ""
        lines.append(
            f"done: {progress.num_ok:,} ok, {progress.num_failed:,} failed{failed}; they took "
            f"{costs_text(progress.costs) or 'nothing'}; left: {preview.num_left:,}"
        )
        again = {reason: count for reason, count in progress.failed.items() if reason in retry}
        if retry:
            lines.append(
                f"to be done again: {sum(again.values()):,} failed pairs"
                + (f" ({reasons_text(again)})" if again else "")
            )
    if preview.num_left:
        lines += _costs_left(preview, num_actors)
    elif preview.status and not retry:
        is_published = preview.status.is_published
        lines.append("nothing is left to do" if is_published else "it is left to be published")
    return lines


def costs_text(costs: Mapping[str, float]) -> str:
    """The costs that a reader asks for; `seconds` is the time of actors.

    What an engine counts for itself (`engine_...`) is left out, and so is what did not occur.
    """
    shown = [f"{duration(costs['seconds'])} of actor time"] if "seconds" in costs else []
    shown += [
        f"{short(cost)} {name.removeprefix('num_').replace('_', ' ')}"
        for name, cost in costs.items()
        if name != "seconds" and not name.startswith(("engine_", AGAIN)) and cost
    ]
    return ", ".join(shown)


def reasons_text(counts: Mapping[str, int]) -> str:
    """Counts by reason, the largest first."""
    return ", ".join(f"{reason} {count:,}" for reason, count in Counter(counts).most_common())


def _costs_left(preview: Preview, num_actors: int) -> Iterator[str]:
    if (costs := preview.costs_left) is None:
        canary = min(preview.num_left, num_actors * -(-preview.num_rows // preview.num_chunks))
        yield (
            f"what they cost is not known, because no run was measured here: limit={canary} does "
            "the first pairs of this run, and measures it"
        )
        return
    yield (
        f"to come: about {costs_text(costs)}; {duration(costs['seconds'] / num_actors)} with "
        f"{num_actors} actor{'s' if num_actors > 1 else ''}, without the time to start"
    )
    if preview.measured_at is None:
        yield "  reckoned from the pairs of this run that are done"
    else:
        yield f"  reckoned from pairs done at {preview.measured_at}; less if some are kept"
