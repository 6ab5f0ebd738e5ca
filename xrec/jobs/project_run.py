"""All jobs of a project, in the order of the pipeline; what is there already is kept.

A job is skipped if its artifact is there and was made from the same settings and inputs. If the
artifact that is there differs, the run stops and says in what; or with `redo`, it is deleted and
made again. A table is not deleted: readers take what it has until the new rows are published. What
depends on an artifact then has other inputs, and is made again for the same reason.

A night (`refresh`) is such a run too, which xrec.nights plans and judges.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial

from xrec import nights
from xrec.cluster.connect import ensure_ray
from xrec.config.shared import JobConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.jobs.catalogue import job_named
from xrec.jobs.output import Found, Output
from xrec.storage import TABLES, Manifest
from xrec.train.lease import CHECKPOINTS, refuse_live_training


def run(
    configs: Mapping[str, JobConfig],
    *,
    redo: bool = False,
    source: str = "",
    costs: nights.NightCosts | None = None,
    tell: Callable[[str], None],
) -> Manifest:
    """Run the jobs of `configs` in order on one Ray cluster; `tell` gets a line of progress.

    Returns the manifest of the last job's artifact.

    costs: adds up what the jobs of a night cost, within its budget.

    Raises BudgetError once that is used up, GateError if a night's dataset lost too many rows,
    ArtifactMismatchError if an artifact that is there
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
                if costs is not None:
                    config = costs.start(name, config)
                if (ray := getattr(config, "ray", None)) is not None:
                    cluster.enter_context(ensure_ray(ray))  # a connection that is there is kept
                there = job_named(name).run(config)
                assert there is not None  # a run has no limit
                if costs is not None:
                    costs.end(there.metrics)
                tell(f"{step} done in {time.monotonic() - started:.0f} s")
            if costs is not None and there.kind == "dataset":
                nights.check_kept(costs.spend, there)
            manifest = there
    return manifest


def refresh(
    configs: Mapping[str, JobConfig],
    *,
    train: bool = False,
    reread: bool = False,
    source: str = "",
    tell: Callable[[str], None],
) -> Manifest:
    """Make what changed since the explanations were published: see `xrec.nights.refresh`."""
    run_jobs = partial(run, redo=True, source=source, tell=tell)
    return nights.refresh(configs, _state, run_jobs, train=train, reread=reread, tell=tell)


def _state(name: str, config: JobConfig, *, ignoring: Sequence[str] = ()) -> str:
    made = job_named(name).output(config)
    return replace(made, unchecked=(*made.unchecked, *ignoring)).found().state


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
