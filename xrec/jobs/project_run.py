"""All jobs of a project, in the order of the pipeline; what is there already is kept.

A job is skipped if its artifact is there and was made from the same settings and inputs. If the
artifact that is there differs, the run stops and says in what; or with `redo`, it is deleted and
made again. A table is not deleted: readers take what it has until the new rows are published. What
depends on an artifact then has other inputs, and is made again for the same reason.

A night (`refresh`) is such a run too. Its artifacts lie in a folder of their own, and the commit
that publishes its explanations names them: so they become the project's present ones all at once.
"""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import reduce
from typing import Any, cast

from xrec.bulk import added, gpus_each, use_of, used_up
from xrec.cluster.connect import ensure_ray
from xrec.config.backfill import BackfillConfig, BulkConfig
from xrec.config.graph import PretrainGraphConfig
from xrec.config.shared import JobConfig
from xrec.data.dataset import EXTENDS, KEPT
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    BudgetError,
    ConfigError,
    GateError,
    XRecError,
)
from xrec.jobs.catalogue import PIPELINE, job_named
from xrec.jobs.output import Found, Output
from xrec.progress import short
from xrec.storage import TABLES, Location, Manifest, last_night, open_location, present
from xrec.storage.location import traffic
from xrec.train.lease import CHECKPOINTS, refuse_live_training


def run(
    configs: Mapping[str, JobConfig],
    *,
    redo: bool = False,
    source: str = "",
    night: "_Night | None" = None,
    tell: Callable[[str], None],
) -> Manifest:
    """Run the jobs of `configs` in order on one Ray cluster; `tell` gets a line of progress.

    Returns the manifest of the last job's artifact.

    night: has a budget for all jobs, and adds up what they cost.

    Raises BudgetError once that is used up, ArtifactMismatchError if an artifact that is there
    differs and `redo` is false, before any work where that can be known. Otherwise raises what the
    jobs raise.
    """
    if not redo:
        _check_nothing_differs(configs)
    with ExitStack() as cluster:
        for number, (name, config) in enumerate(configs.items(), start=1):
            step = f"[{number}/{len(configs)}]"
            there = _there(name, config, redo)
            # What is finished is run again nevertheless if its failed rows are to be done again.
            retries = getattr(config, "retry_failed", None) is not None
            if there is not None and not retries:
                tell(f"{step} xrec {name}: skipped, it is there with the same settings and inputs")
            else:
                tell(f"{step} xrec {name} {source}".rstrip())
                started = time.monotonic()
                if night is not None:
                    config = night.within(config, name)
                if (ray := getattr(config, "ray", None)) is not None:
                    cluster.enter_context(ensure_ray(ray))  # a connection that is there is kept
                there = job_named(name).run(config)
                assert there is not None  # a run has no limit
                if night is not None:
                    night.add(there.metrics)
                tell(f"{step} done in {time.monotonic() - started:.0f} s")
            if night is not None:
                night.check(there)
            manifest = there
    return manifest


_COSTS = (
    *("seconds", "cpu_hours", "gpu_hours", "tokens", "money"),
    *("store_requests", "bytes_read", "bytes_written"),
)
_Metrics = Mapping[str, Any]


class _Night:
    """What the jobs of a night may cost, and what they did.

    spend: whose budget is for all jobs, and whose prices are for those without their own. folder:
    of the page, and of the record of what each job cost, which earlier calls may have begun; None:
    there are none.
    """

    def __init__(self, spend: BackfillConfig, folder: Location | None):
        self._spend, self._folder, self._began = spend, folder, time.monotonic()
        record = None if folder is None else folder / "costs.json"
        text = record.read_text() if record is not None and record.is_file() else "{}"
        self._jobs: dict[str, dict[str, float]] = json.loads(text)
        self._at_work: tuple[JobConfig, str, float] | None = None  # and since when

    def costs(self, but: str = "") -> dict[str, float]:
        """What all jobs but one cost; without money if there are no prices."""
        return reduce(added, (each for name, each in self._jobs.items() if name != but), {})

    def within(self, config: JobConfig, name: str) -> JobConfig:
        """The config of a job that has what is left of the budget; raises BudgetError without."""
        but = name if isinstance(config, BulkConfig) else ""  # it counts its earlier starts itself
        used = {**self.costs(but), "seconds": time.monotonic() - self._began}
        if why := used_up(self._spend.budget, used):
            raise BudgetError(
                f"{why} before xrec {name}; what is done stays, and the same command goes on, if "
                "it was not for seconds with a larger budget",
                code="budget_used_up",
                saw=name,
            )
        traffic()  # of no job
        self._at_work = config, name, time.monotonic()
        if not isinstance(config, BulkConfig):
            return config
        left = {kind: most - used.get(kind, 0) for kind, most in self._spend.budget.items()}
        own = {kind: min(most, left.get(kind, most)) for kind, most in config.budget.items()}
        prices = config.prices or self._spend.prices
        return _with(config, {"budget": {**left, **own}, "prices": prices})

    def check(self, made: Manifest) -> None:
        """Raise GateError if it is a dataset that lacks too much of the one before."""
        least = (self._spend.gate or {}).get("kept") or 0
        kept = made.metrics.get(KEPT, {}) if made.kind == "dataset" else {}
        if any(share < least for share in kept.values()):
            shown = ", ".join(f"{share:.0%} of the {table}" for table, share in kept.items())
            raise GateError(
                f"the night's dataset has {shown} of the one before: expected {least:.0%} or more "
                "of each. Nothing is published: mend the raw files, and refresh again; or, if it "
                "is meant, with backfill.gate.kept=null",
                code="rows_lost",
                key="backfill.gate.kept",
                saw=kept,
            )

    def add(self, metrics: _Metrics) -> None:
        """Add the start of the job at work, which ended: by its metrics, or as it is seen here."""
        if self._at_work is None:
            return
        (config, name, since), self._at_work = self._at_work, None
        seconds = time.monotonic() - since
        before, costs = self._jobs.get(name, {}), metrics.get("costs")
        if costs:  # of all starts of its run
            before = {"seconds": before.get("seconds", 0)}
        costs = costs or {**_held(config, seconds), **traffic()}
        prices = getattr(config, "prices", None) or self._spend.prices
        costs = added(before, {**costs, **use_of(costs, prices), "seconds": seconds})
        self._jobs[name] = {each: costs[each] for each in _COSTS if each in costs}
        self._write("costs.json", json.dumps(self._jobs, indent=1))

    def report(self, metrics: _Metrics, end: str, tell: Callable[[str], None]) -> dict[str, Any]:
        """Tell what the jobs cost, and write the page; returns the metrics with these costs too."""
        metrics = {**metrics, "night": (total := self.costs())}
        if not total:
            return metrics
        import pandas as pd  # it takes half a second

        from xrec.annotate.report import HEAD

        costs = pd.DataFrame({**self._jobs, "all jobs": total}).T
        costs = costs[[each for each in _COSTS if each in total]]
        shown: dict[str, Any] = {"float_format": short, "na_rep": "-"}
        tell(costs.to_string(**shown))
        page = f"{HEAD}<h2>A night: {end}</h2>{costs.to_html(**shown)}<h2>All figures</h2>"
        page += pd.json_normalize(metrics).T.to_html(header=False, **shown)
        if self._write("report.html", page):
            tell(f"report: {self._folder}/report.html")
        return metrics

    def _write(self, name: str, text: str) -> bool:
        """Write a file, unless no job has made anything; returns whether it did."""
        if self._folder is None or not self._folder.exists():
            return False
        (self._folder / name).write_bytes(text.encode())
        return True


def _held(config: JobConfig, seconds: float) -> dict[str, float]:
    """The hours of the workers of a training, and of one CPU of a job that has none."""
    scaling, hours = getattr(config, "scaling", None), seconds / 3600
    if scaling is None:
        return {"cpu_hours": hours}
    count, gpus = scaling.num_workers, gpus_each(scaling.device, scaling.num_workers)
    return {"cpu_hours": scaling.cpus_per_worker * count * hours, "gpu_hours": gpus * count * hours}


NIGHT_JOBS = PIPELINE[1:-1]
"""Those of a night: all from `annotate` to `backfill`."""
_TRAINED = ("train-aspects", "train-adapter")
"""Only if training is asked for: a score that is trained anew chooses other aspects for many."""
_NEEDED = ("prepare", "pretrain-graph", "backfill")


def refresh(
    configs: Mapping[str, JobConfig],
    *,
    train: bool = False,
    anew: bool = False,
    source: str = "",
    tell: Callable[[str], None],
) -> Manifest:
    """Make what changed since the project's explanations were published; returns their manifest.

    The new artifacts lie at <workspace>/nights/N. A call that was killed goes on where it was; what
    it had made of other raw files is left alone. If the raw files are those of the present dataset,
    only recommendations and explanations are looked at, unless it is to be read `anew`. With
    `train` the graph is trained on, and an adapter on it, which writes every text again.
    `budget` and `prices` of the backfill are for all. What all cost is the metric `night` of the
    manifest that is returned, or of the error; nights/N/costs.json and report.html have it by job.

    Raises BudgetError if it is used up; ConfigError without a section that a night needs, or if the
    project names the URI of an artifact that it makes; ArtifactNotFoundError if the project was not
    run before; and what the jobs raise.
    """
    if missing := [name for name in _NEEDED if name not in configs]:
        raise ConfigError(
            f"a night needs the sections {', '.join(_NEEDED)}, saw none of {', '.join(missing)}",
            code="missing",
            key=missing[0],
        )
    number, there = last_night(configs["backfill"])
    if not train and not anew and _is_prepared(configs, there, number):
        tell("the raw files are those of the present dataset")
        jobs = {name: present(configs[name]) for name in NIGHT_JOBS[-2:] if name in configs}
        folder = None
    else:
        jobs = _next_night(configs, there, number, train)
        dataset = jobs["prepare"].artifact("dataset")
        tell(f"night: {dataset}")
        folder = open_location(dataset.removesuffix("/dataset"), jobs["prepare"].storage)
    night = _Night(cast(BackfillConfig, jobs["backfill"]), folder)
    try:
        manifest = run(jobs, redo=True, source=source, night=night, tell=tell)
    except XRecError as error:
        night.add(error.metrics)
        end = f"{type(error).__name__}, exit code {error.exit_code}"  # no words of the raw files
        error.metrics = night.report(error.metrics, end, tell)
        raise
    metrics = night.report(manifest.metrics, f"published as version {manifest.version}", tell)
    return manifest.model_copy(update={"metrics": metrics})


def _is_prepared(configs: Mapping[str, JobConfig], there: Mapping[str, str], number: int) -> bool:
    """Whether the raw files and their settings are those of the present dataset."""
    folder = configs["prepare"].artifact(f"nights/{number}")
    own = {**there, **({"annotations": f"{folder}/annotations"} if number else {})}
    names = [name for name in ("annotate", "prepare") if name in configs]
    made = (job_named(name).output(_with(configs[name], own)) for name in names)
    # What the dataset extends is no part of the question.
    asked = (replace(each, unchecked=(*each.unchecked, EXTENDS)) for each in made)
    return all(each.found().state == "up to date" for each in asked)


def _next_night(
    configs: Mapping[str, JobConfig], there: Mapping[str, str], number: int, train: bool
) -> dict[str, JobConfig]:
    """The first night after `number` whose folder holds nothing of other raw files."""
    while True:
        number += 1
        night = _night(configs, there, number, train)
        if _look(first := next(iter(night)), night[first], exact=True)[1].state != "stale":
            return night


def _night(
    configs: Mapping[str, JobConfig], there: Mapping[str, str], number: int, train: bool
) -> dict[str, JobConfig]:
    """The configs of the jobs of a night that follows the artifacts `there`."""
    names = [name for name in NIGHT_JOBS if name in configs and (train or name not in _TRAINED)]
    made = [str(job_named(name).artifact) for name in names if name not in NIGHT_JOBS[-2:]]
    named = [kind for kind in made if any(getattr(configs[name], kind, None) for name in names)]
    folder = configs["prepare"].artifact(f"nights/{number}")
    if named:
        raise ConfigError(
            f"{', '.join(named)}: the project names a URI of it, and a night makes its own below "
            f"{folder}; take the key out",
            code="uri_in_night",
            key=named[0],
        )
    night = {**there, **{kind: f"{folder}/{kind}" for kind in made}}
    changes: dict[str, dict[str, Any]] = {
        "prepare": {EXTENDS: there["dataset"]},
        "pretrain-graph": {"start_from": there["graph"]},
    }
    graph = configs["pretrain-graph"]
    if not train and isinstance(graph, PretrainGraphConfig):
        # An epoch that helps a little would move every vector. Folds are for an adapter's training.
        as_it_is = graph.training.model_copy(update={"num_epochs": 0})
        changes["pretrain-graph"].update(training=as_it_is, folds=0)
    return {name: _with(configs[name], {**night, **changes.get(name, {})}) for name in names}


def _with(config: JobConfig, values: Mapping[str, Any]) -> JobConfig:
    """The config with those of the values that it has keys for."""
    fields = type(config).model_fields
    return config.model_copy(update={key: each for key, each in values.items() if key in fields})


def _there(name: str, config: JobConfig, redo: bool) -> Manifest | None:
    """The job's very output, if it is finished; with `redo`, one that differs is deleted.

    What takes a long read is compared only if the rest does not settle it.
    """
    made, found = _look(name, config, exact=False)
    if found.state in ("up to date", "begun"):
        made, found = _look(name, config, exact=True)
    if found.state == "stale":
        if not redo:
            raise _mismatch({name: (made, found)})
        refuse_live_training(made.location / CHECKPOINTS)
        made.delete()
    return found.manifest if found.state == "up to date" else None


def _check_nothing_differs(configs: Mapping[str, JobConfig]) -> None:
    """Raise if anything that is there differs, of jobs whose inputs are there."""
    looked = {}
    for name, config in configs.items():
        with suppress(ArtifactNotFoundError):  # an input, which an earlier job will make
            looked[name] = _look(name, config, exact=False)
    differing = {name: each for name, each in looked.items() if each[1].state == "stale"}
    if differing:
        raise _mismatch(differing)


def _look(name: str, config: JobConfig, *, exact: bool) -> tuple[Output, Found]:
    made = job_named(name).output(config, exact=exact)
    return made, made.found()


def _mismatch(differing: Mapping[str, tuple[Output, Found]]) -> ArtifactMismatchError:
    lines = []
    for name, (made, found) in differing.items():
        begun = "" if found.manifest else ", begun and not finished"
        lines.append(f"{made.location}: the {made.kind} that is there is of another run{begun}:")
        lines += [f"  {line}" for line in found.differences]
        lines.append(f"  (xrec {name})")
    stay = all(made.kind in TABLES for made, _ in differing.values())
    how = "replace it, once the new one is done" if stay else "delete and make it again"
    return ArtifactMismatchError(
        "\n".join([*lines, f"give --redo to {how}, with all that depends on it"]),
        code="other_settings",
        key=next(iter(differing)),
        saw={name: found.differences for name, (_, found) in differing.items()},
    )
