"""Run the jobs of a project in order, and keep the artifacts that are up to date.

A job is skipped if its artifact was made from the same settings and inputs. If the artifact
differs, the run stops and reports how; with `redo`, it deletes and remakes the artifact and all
that depends on it. A table is not deleted: readers use it until the new rows are published.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta

from xrec import nights
from xrec.config import JobConfig, Project, RayJobConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, ConfigError, XRecError
from xrec.jobs import PIPELINE, job_named, run_job
from xrec.jobs.output import TABLES, Found, Output
from xrec.storage import (
    CHECKPOINTS,
    Manifest,
    at_work,
    open_location,
    refuse_driver,
)


def chosen_configs(
    project: Project, first: str | None = None, last: str | None = None
) -> dict[str, JobConfig]:
    """Return the configs of the project's jobs from `first` to `last`, in order.

    Raises ConfigError for a mistake in the file, a job without a section, or a job with a limit,
    which would not finish.
    """
    jobs = [job for job in project.jobs if job in PIPELINE]
    for option, name in (("--from", first), ("--until", last)):
        if name is not None and name not in jobs:
            raise ConfigError(
                f"{option} {name}: not a job of this run; expected one with a section in "
                f"{project.source}: {', '.join(jobs) or 'none'}",
                code="unknown_job",
                key=option,
                saw=name,
            )
    start = jobs.index(first) if first is not None else 0
    end = jobs.index(last) + 1 if last is not None else len(jobs)
    if not jobs[start:end]:
        reason = f" from {first} until {last}" if jobs else "; add sections, such as 'prepare:'"
        raise ConfigError(f"{project.source}: no job to run{reason}", code="no_job")
    configs = project.configs(jobs[start:end])
    for name, config in configs.items():
        if (limit := getattr(config, "limit", None)) is not None:
            raise ConfigError(
                f"{name}.limit = {limit}: xrec run finishes every job; remove the limit, and pass "
                f"it to xrec {name} instead",
                code="limit_in_run",
                key=f"{name}.limit",
                saw=limit,
            )
    return configs


def run(
    configs: Mapping[str, JobConfig],
    *,
    redo: bool = False,
    source: str = "",
    costs: nights.NightCosts | None = None,
    tell: Callable[[str], None],
) -> Manifest:
    """Run jobs in order on one Ray cluster, and return the last manifest.

    `tell` receives progress lines; `costs` adds up the costs of a night's jobs within its budget.

    Raises ArtifactMismatchError if an artifact differs and `redo` is false (before any work, if
    that is known by then), BudgetError, GateError if a night's dataset lost too many rows, and
    what the jobs raise.
    """
    if not redo:
        _check_nothing_differs(configs)
    with ExitStack() as cluster:
        for number, (name, config) in enumerate(configs.items(), start=1):
            step = f"[{number}/{len(configs)}]"
            done = _finished(name, config, redo)
            # A finished job runs again if its failed rows are to be retried.
            if done is not None and getattr(config, "retry_failed", None) is None:
                tell(f"{step} xrec {name}: skipped, it exists with the same settings and inputs")
                manifest = done
            else:
                tell(f"{step} xrec {name} {source}".rstrip())
                started = time.monotonic()
                manifest = _run_job(name, config, costs, cluster)
                tell(f"{step} done in {time.monotonic() - started:.0f} s")
            if costs is not None and manifest.kind == "dataset":
                nights.check_kept(costs.spend, manifest)
    return manifest


def _run_job(
    name: str, config: JobConfig, costs: nights.NightCosts | None, cluster: ExitStack
) -> Manifest:
    """Run a job; the first one that needs Ray connects `cluster` to it."""
    from xrec.cluster import ensure_ray

    if costs is not None:
        config = costs.start(name, config)
    if isinstance(config, RayJobConfig):
        cluster.enter_context(ensure_ray(config.ray))
    manifest = run_job(name, config)
    assert manifest is not None  # there is no limit
    if costs is not None:
        costs.end(manifest.metrics)
    return manifest


def refresh(
    configs: Mapping[str, JobConfig],
    *,
    train: bool = False,
    reread: bool = False,
    source: str = "",
    metrics_to: str | None = None,
    tell: Callable[[str], None],
) -> Manifest:
    """Remake what changed since the explanations were published, publish it, and report its cost.

    The new artifacts go to <workspace>/nights/N; see `plan_night` for `train` and `reread`. The
    budget and the prices of the backfill apply to all jobs. The costs of the jobs are in nights/N,
    and the total is the metric `night` of the manifest, or of the error. The metrics for Prometheus
    go to the file `metrics_to`.

    Old nights are deleted at the end. What fails once the night has published or failed is told,
    and does not change its outcome. Raises BudgetError if the budget is used up, and what
    `plan_night` and the jobs raise.
    """
    night = nights.plan_night(configs, _state, train=train, reread=reread)
    night.begin()
    tell(night.title)
    costs, first = nights.NightCosts(night), next(iter(night.jobs.values()))
    try:
        with at_work(open_location(first.workspace, first.storage)):
            manifest = run(night.jobs, redo=True, source=source, costs=costs, tell=tell)
    except XRecError as error:
        outcome = f"{type(error).__name__}, exit code {error.exit_code}"
        with _told(tell, "and besides"):
            costs.end(error.metrics)
            error.metrics = costs.report(error.metrics, outcome, tell)
            if metrics_to:
                nights.write_metrics(metrics_to, costs.spend, error.metrics, error.exit_code)
        raise
    metrics = manifest.metrics
    with _told(tell, "published, but"):
        metrics = costs.report(metrics, f"published as version {manifest.version}", tell)
    with _told(tell, "published, but"):
        if (hours := costs.spend.vacuum_hours) is not None:
            nights.prune_nights(costs.spend, timedelta(hours=hours))
    with _told(tell, "published, but"):
        if metrics_to:
            nights.write_metrics(metrics_to, costs.spend, metrics, 0)
    return manifest.model_copy(update={"metrics": metrics})


@contextmanager
def _told(tell: Callable[[str], None], how: str) -> Iterator[None]:
    """Tell an error inside the `with` block instead of raising it: the night has its outcome."""
    try:
        yield
    except XRecError as error:
        tell(f"{how}: {error}")


def look_ahead(configs: Mapping[str, JobConfig], *, train: bool) -> list[str]:
    """Return lines on what `refresh` would do and cost; nothing is written."""
    night = nights.plan_night(configs, _state, train=train)
    return list(nights.forecast(night, configs))


def _state(name: str, config: JobConfig, *, ignoring: Sequence[str] = ()) -> str:
    made = job_named(name).output(config)
    return replace(made, unchecked=(*made.unchecked, *ignoring)).found().state


def _finished(name: str, config: JobConfig, redo: bool) -> Manifest | None:
    """Return the manifest if the job is done; with `redo`, delete an output that differs.

    Inputs that take long to read are compared only if everything else is the same.
    """
    made, found = _look(name, config, exact=False)
    if found.state in ("up to date", "begun"):
        made, found = _look(name, config, exact=True)
    if found.state == "stale":
        if not redo:
            raise _mismatch({name: (made, found)})
        refuse_driver(made.location / CHECKPOINTS)
        made.delete()
    return found.manifest if found.state == "up to date" else None


def _check_nothing_differs(configs: Mapping[str, JobConfig]) -> None:
    """Raise ArtifactMismatchError if the output of a job whose inputs exist differs."""
    looked = {}
    for name, config in configs.items():
        with suppress(ArtifactNotFoundError):  # an input that an earlier job makes
            looked[name] = _look(name, config, exact=False)
    if stale := {name: pair for name, pair in looked.items() if pair[1].state == "stale"}:
        raise _mismatch(stale)


def _look(name: str, config: JobConfig, *, exact: bool) -> tuple[Output, Found]:
    """Return a job's output and what already exists of it."""
    made = job_named(name).output(config, exact=exact)
    return made, made.found()


def _mismatch(stale: Mapping[str, tuple[Output, Found]]) -> ArtifactMismatchError:
    lines = []
    for name, (made, found) in stale.items():
        unfinished = "" if found.manifest else ", which is not finished"
        lines.append(f"{made.location}: contains the {made.kind} of another run{unfinished}:")
        lines += [f"  {difference}" for difference in found.differences]
        lines.append(f"  (xrec {name})")
    are_tables = all(made.kind in TABLES for made, _ in stale.values())
    how = "replace it once the new one is done" if are_tables else "delete and remake it"
    return ArtifactMismatchError(
        "\n".join([*lines, f"pass --redo to {how}, with everything that depends on it"]),
        code="other_settings",
        key=next(iter(stale)),
        saw={name: found.differences for name, (_, found) in stale.items()},
    )
