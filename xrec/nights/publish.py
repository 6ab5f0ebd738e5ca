"""Candidates: finished runs that the gate or a command kept from being published."""

from collections.abc import Iterator

from xrec.backfill import last_night, present
from xrec.backfill.identity import identify
from xrec.backfill.plan import run_request
from xrec.bulk import BulkRun, open_run
from xrec.config import BackfillConfig
from xrec.errors import ArtifactNotFoundError
from xrec.nights.gate import judge, make_gate, num_items_of
from xrec.nights.sample import sample_of, side_by_side
from xrec.storage import MANIFEST, Manifest, check_artifacts, location_of


def publish_candidate(config: BackfillConfig, force: str = "") -> Manifest:
    """Publish a finished run if it passes its gate, or if `force` gives a reason to do so anyway.

    The run is that of an unpublished night if there is one, else that of the present artifacts.
    Raises ArtifactNotFoundError if there is no such run, and what `finish` raises.
    """
    from xrec.backfill.driver import finish  # imports ray

    config, run = _candidate(config)
    manifest = finish(config, run, make_gate(config, run, force))
    assert manifest is not None
    return manifest


def look_at_candidate(config: BackfillConfig) -> Iterator[str]:
    """Yield the gate's figures for a finished run, then some of its texts and published ones."""
    config, run = _candidate(config)
    sample = sample_of(run, num_items_of(config))
    figures, _ = judge(config, run, sample)
    yield from map(str, figures)
    yield f"from {len(sample.new):,} explanations, compared with version {sample.version}"
    yield from side_by_side(sample.new, sample.old)


def _candidate(config: BackfillConfig) -> tuple[BackfillConfig, BulkRun]:
    for night_config in _with_later_nights(config):
        check_artifacts(night_config)
        request = run_request(night_config, identify(night_config))
        run = None if request.planned() is None else open_run(request)
        if run is not None and all(run_pass.is_done for run_pass in run.passes()):
            return night_config, run
    raise ArtifactNotFoundError(
        f"{config.artifact('explanations')}: no finished run with these settings and pairs; run "
        "xrec backfill or xrec refresh, which continue one that was started",
        code="no_finished_run",
        saw=config.artifact("explanations"),
    )


def _with_later_nights(config: BackfillConfig) -> Iterator[BackfillConfig]:
    """Yield the config with each unpublished night's artifacts, latest first, then unchanged."""
    (number, uris), now = last_night(config), present(config)
    nights = location_of(config, "nights")
    for night in sorted(map(int, filter(str.isdigit, nights.folders())), reverse=True):
        made = {kind: nights / str(night) / kind for kind in uris}
        own = {kind: made[kind].uri for kind in made if (made[kind] / MANIFEST).is_file()}
        if night > number and {"dataset", "graph"} <= own.keys():
            yield now.with_artifacts(own)
    yield now
