"""Goes through the stages of an annotate run, each a bulk run, and publishes what they wrote."""

import logging
from collections.abc import Mapping

from xrec.annotate.annotator import AnnotatorSpec
from xrec.annotate.formats import STAGES, Stage, stage_format
from xrec.annotate.identity import KIND, begun_files
from xrec.annotate.plan import PlannedStage, plan_stage
from xrec.annotate.publish import publish_annotations
from xrec.annotate.store import StoreRecord
from xrec.bulk import ActorPool, BulkRun, RunState, drive, tells_what_is_done, this_process
from xrec.bulk.publish import finished_version
from xrec.bulk.ray_actors import gpus_each
from xrec.bulk.state import added
from xrec.config.annotate import AnnotateConfig
from xrec.errors import ConfigError
from xrec.progress import counter
from xrec.storage import Manifest, location_of

logger = logging.getLogger("xrec")

_WHAT: Mapping[Stage, str] = {
    "items": "profiles of items",
    "users": "profiles of users",
    "pairs": "explanations",
    "aspects": "names of aspects",
}


def run_annotate(
    config: AnnotateConfig, spec: AnnotatorSpec, record: StoreRecord
) -> Manifest | None:
    """Write what is left of all stages, and return the manifest; None if the limit ended the run.

    record: of the kept reviews (`keep_source`). Ray must be initialised.

    Raises LeaseError if another driver is at work, DataError if too many texts of a stage failed,
    ConfigError for a reason to retry that no stage has, and what `AnnotatorSpec.check_costs`
    raises. What is committed stays, and the next call goes on from there.
    """
    _check_reasons(config, spec)
    return _Run(config, spec, record).go()


class _Run:
    def __init__(self, config: AnnotateConfig, spec: AnnotatorSpec, record: StoreRecord):
        self._config = config
        self._spec = spec
        self._record = record
        self._output = location_of(config, KIND)
        self._files = begun_files(self._output)
        self._runs: dict[Stage, BulkRun] = {}
        self._versions: dict[Stage, int] = {}
        self._num_rows = 0  # of the stages that are finished
        self._costs: dict[str, float] = {}

    def go(self) -> Manifest | None:
        if self._config.retry_failed:
            self._spec.forget_failures(self._output)
        for stage in STAGES:
            if self._config.limit is not None and self._num_rows >= self._config.limit:
                return None
            planned = plan_stage(
                self._config, self._spec, self._record, self._files, stage, self._versions
            )
            if planned is None:
                continue
            state = self._drive(stage, planned)
            found = finished_version(planned.run)
            if state.state != "finished" or found is None:
                return None
            self._runs[stage], self._versions[stage] = planned.run, found[0]
            self._num_rows += state.num_rows
            self._costs = added(self._costs, state.costs)
        manifest = publish_annotations(
            self._config, self._spec, self._files, self._record, self._runs, self._versions
        )
        self._spec.clean_up(self._output)
        return manifest

    def _drive(self, stage: Stage, planned: PlannedStage) -> RunState:
        run, config = planned.run, self._config
        num_rows = run.plan.record.num_rows
        logger.info("%s: %d in %d chunks", _WHAT[stage], num_rows, run.plan.record.num_chunks)
        is_text, actors = stage != "aspects", config.actors
        num_actors = self._spec.num_actors(actors.num_actors) if is_text else actors.num_actors
        num_gpus = self._spec.gpus_per_actor if is_text else 0
        pool = ActorPool(
            run.worker_settings(planned.make_task, self._spec.chunks_at_once if is_text else 1),
            num_actors=num_actors,
            cpus_per_actor=actors.cpus_per_actor,
            gpus_per_actor=gpus_each(actors.device, num_actors, num_gpus) if num_gpus else 0,
        )
        with (
            tells_what_is_done(run, f"{_WHAT[stage]} are written"),
            counter(f"{_WHAT[stage]} written", num_rows) as show,
        ):

            def on_commit(state: RunState) -> None:
                show(state.num_rows)
                self._spec.check_costs(added(self._costs, state.costs))

            return drive(
                run,
                pool,
                holder=this_process(),
                retry=_reasons(config, run.format.all_reasons) if is_text else (),
                max_failed_share=config.max_failed_share if is_text else 1.0,
                max_rows=None if config.limit is None else config.limit - self._num_rows,
                take_over=config.take_over,
                on_commit=on_commit,
            )


def _reasons(config: AnnotateConfig, of_stage: tuple[str, ...]) -> tuple[str, ...]:
    """The reasons that are to be retried, as far as the stage has them."""
    wanted = config.retry_failed or ()
    return of_stage if "all" in wanted else tuple(each for each in wanted if each in of_stage)


def _check_reasons(config: AnnotateConfig, spec: AnnotatorSpec) -> None:
    known = dict.fromkeys(
        reason
        for stage in STAGES
        if stage != "aspects"
        for reason in stage_format(stage, spec.reasons).all_reasons
    )
    unknown = [each for each in config.retry_failed or () if each not in (*known, "all")]
    if unknown:
        raise ConfigError(
            f"retry_failed: {', '.join(unknown)}: expected all, or some of {', '.join(known)}"
        )
