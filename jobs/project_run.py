"""All jobs of a project, in the order of the pipeline; what is there already is kept.

A job is skipped if its artifact is there and was made from the same settings and inputs. If the
artifact that is there differs, the run stops and says in what; or with `redo`, it is deleted and
made again. A table is not deleted: readers take what it has until the new rows are published. What
depends on an artifact then has other inputs, and is made again for the same reason.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from cluster.connect import ensure_ray
from jobs.catalogue import job_named
from jobs.output import Found, Output
from xrec.config.shared import JobConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError
from xrec.storage import TABLES
from xrec.train.lease import CHECKPOINTS, refuse_live_training


def run(
    configs: Mapping[str, JobConfig],
    *,
    redo: bool = False,
    source: str = "",
    tell: Callable[[str], None],
) -> None:
    """Run the jobs of `configs` in order on one Ray cluster; `tell` gets a line of progress.

    Raises ArtifactMismatchError if an artifact that is there differs and `redo` is false, before
    any work where that can be known. Otherwise raises what the jobs raise.
    """
    if not redo:
        _check_nothing_differs(configs)
    with ExitStack() as cluster:
        for number, (name, config) in enumerate(configs.items(), start=1):
            step = f"[{number}/{len(configs)}]"
            retries = getattr(config, "retry_failed", None) is not None
            if _is_there(name, config, redo) and not retries:
                tell(f"{step} xrec {name}: skipped, it is there with the same settings and inputs")
                continue
            tell(f"{step} xrec {name} {source}".rstrip())
            started = time.monotonic()
            if (ray := getattr(config, "ray", None)) is not None:
                cluster.enter_context(ensure_ray(ray))  # a connection that is there is kept
            job_named(name).run(config)
            tell(f"{step} done in {time.monotonic() - started:.0f} s")


def _is_there(name: str, config: JobConfig, redo: bool) -> bool:
    """Whether the job's very output is finished; with `redo`, one that differs is deleted.

    What takes a long read is compared only if the rest does not settle it.
    """
    for exact in (False, True):
        made = job_named(name).output(config, exact=exact)
        found = made.found()
        if found.state == "missing":
            return False
        if found.state == "differs":
            if not redo:
                raise ArtifactMismatchError(_message({name: (made, found)}))
            _delete(made)
            return False
    return found.state == "same"


def _delete(made: Output) -> None:
    refuse_live_training(made.location / CHECKPOINTS)
    made.delete()


def _check_nothing_differs(configs: Mapping[str, JobConfig]) -> None:
    differing = {}
    for name, config in configs.items():
        try:
            made = job_named(name).output(config, exact=False)
            found = made.found()
        except ArtifactNotFoundError:  # an input, which an earlier job will make
            continue
        if found.state == "differs":
            differing[name] = (made, found)
    if differing:
        raise ArtifactMismatchError(_message(differing))


def _message(differing: Mapping[str, tuple[Output, Found]]) -> str:
    lines = []
    for name, (made, found) in differing.items():
        begun = "" if found.manifest else ", begun and not finished"
        lines.append(f"{made.location}: the {made.kind} that is there is of another run{begun}:")
        lines += [f"  {line}" for line in found.differences]
        lines.append(f"  (xrec {name})")
    stay = all(made.kind in TABLES for made, _ in differing.values())
    how = "replace it, once the new one is done" if stay else "delete and make it again"
    return "\n".join([*lines, f"give --redo to {how}, with all that depends on it"])
