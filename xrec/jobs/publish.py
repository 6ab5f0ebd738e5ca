"""What published texts are shown: publish a candidate, look at it, audit what is published.

A candidate is a finished backfill that is not published, because its gate refused it, or because it
was rolled back.
"""

from collections import defaultdict
from collections.abc import Iterator

from xrec.backfill.explain import FailedPair, refused_today
from xrec.backfill.gate import judge, sample_of, side_by_side
from xrec.backfill.identity import identify
from xrec.backfill.plan import run_request
from xrec.bulk import BulkRun, open_run, published, take_down
from xrec.checks import check_word_list
from xrec.config.backfill import BackfillConfig
from xrec.errors import ArtifactNotFoundError
from xrec.generate.loading import load_finisher, sources_of
from xrec.schemas import GENERATED
from xrec.storage import MANIFEST, Manifest, check_artifacts, last_night, location_of, present


def publish(config: BackfillConfig, force: str = "") -> Manifest:
    """Publish the candidate if its gate accepts it, or if `force` says why it should be published.

    Raises ArtifactNotFoundError if there is no candidate, and what `finish` raises.
    """
    from xrec.backfill.driver import finish

    config, run = _candidate(config)
    manifest = finish(config, run, force)
    assert manifest is not None
    return manifest


def look_at_candidate(config: BackfillConfig) -> Iterator[str]:
    """Yield the gate's figures of the candidate, and some pairs beside the published ones."""
    config, run = _candidate(config)
    sample = sample_of(run)
    yield from map(str, judge(config, run, sample))
    yield f"of {len(sample.new):,} explanations, beside version {sample.version}"
    yield from side_by_side(sample.new, sample.old)


def audit(config: BackfillConfig, *, takes_down: bool) -> Iterator[str]:
    """Yield a line for each published text that today's checks would refuse, and a summary.

    With `takes_down`, makes one takedown per reason. Neither writes texts nor loads the language
    model. Raises what `load_finisher` and `take_down` raise.
    """
    check_artifacts(config, "dataset", "graph", "adapter", "explanations")
    rules, uri = config.decoding.text, config.artifact("explanations")
    check_word_list(rules.checks, config.storage)
    table, finisher = published(uri, storage=config.storage), load_finisher(sources_of(config))
    num_rows, by_reason = 0, defaultdict[str, list[FailedPair]](list)
    for rows in table.batches(GENERATED.names):
        num_rows += rows.num_rows
        for pair in refused_today(*finisher, rows, rules):
            by_reason[pair.reason].append(pair)
            yield f"{pair.ids['user_id']}  {pair.ids['item_id']}  {pair.reason}: {pair.message}"
    counts = "".join(f"; {len(pairs)} {reason}" for reason, pairs in by_reason.items())
    num_refused = sum(map(len, by_reason.values()))
    yield f"{uri}: {num_refused} of {num_rows} texts would be refused today{counts}"
    for reason, pairs in by_reason.items() if takes_down else ():
        ids, why = [pair.ids for pair in pairs], f"audit: {reason}"
        made = take_down(uri, rows=ids, reason=why, storage=config.storage)
        yield f"takedown {made.number} ({why}): version {made.version} is without them"


def _candidate(config: BackfillConfig) -> tuple[BackfillConfig, BulkRun]:
    for candidate in _candidates(config):
        check_artifacts(candidate, "dataset", "graph", "adapter", "explanations")
        request = run_request(candidate, identify(candidate))
        run = None if request.planned() is None else open_run(request)
        if run is not None and all(part.is_done for part in run.passes()):
            return candidate, run
    uri = config.artifact("explanations")
    raise ArtifactNotFoundError(
        f"{uri}: no finished run with these settings and pairs; run xrec backfill or xrec refresh, "
        "which continues an unfinished one",
        code="no_finished_run",
        saw=uri,
    )


def _candidates(config: BackfillConfig) -> Iterator[BackfillConfig]:
    """Yield the config with the artifacts of each unpublished night, the last first; then as is."""
    number, uris = last_night(config)
    nights = location_of(config, "nights")
    for night in sorted(map(int, filter(str.isdigit, nights.folders())), reverse=True):
        locations = {kind: nights / str(night) / kind for kind in uris}
        made = {kind: at.uri for kind, at in locations.items() if (at / MANIFEST).is_file()}
        if night > number and {"dataset", "graph"} <= made.keys():
            yield present(config).model_copy(update=made)
    yield present(config)
