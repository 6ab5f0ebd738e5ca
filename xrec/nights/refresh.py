"""`xrec refresh`: makes a night, publishes it, and reports what it cost."""

from collections.abc import Callable, Mapping
from typing import Protocol

from xrec.config import JobConfig
from xrec.errors import XRecError
from xrec.nights.costs import NightCosts
from xrec.nights.plan import JobState, plan_night
from xrec.storage import Manifest


class RunJobs(Protocol):
    """Runs jobs in order, each between `costs.start` and `costs.end`; returns the last manifest."""

    def __call__(self, jobs: Mapping[str, JobConfig], *, costs: NightCosts) -> Manifest:
        """Delete an artifact in the way of a job and make it again."""


def refresh(
    configs: Mapping[str, JobConfig],
    state: JobState,
    run: RunJobs,
    *,
    train: bool = False,
    reread: bool = False,
    tell: Callable[[str], None],
) -> Manifest:
    """Make what changed since the explanations were published; return their manifest.

    The new artifacts go to <workspace>/nights/N; see `plan_night` for `train` and `reread`. The
    budget and the prices of the backfill are for all jobs. What the jobs cost is in nights/N, and
    the total is the metric `night` of the manifest, or of the error.

    Raises BudgetError if the budget is used up, and what `plan_night` and the jobs raise.
    """
    night = plan_night(configs, state, train=train, reread=reread)
    tell(night.title)
    costs = NightCosts(night)
    try:
        manifest = run(night.jobs, costs=costs)
    except XRecError as error:
        costs.end(error.metrics)
        outcome = f"{type(error).__name__}, exit code {error.exit_code}"
        error.metrics = costs.report(error.metrics, outcome, tell)
        raise
    metrics = costs.report(manifest.metrics, f"published as version {manifest.version}", tell)
    return manifest.model_copy(update={"metrics": metrics})
