"""The jobs that `xrec run` goes through, chosen from a project, with their configs.

Nothing heavy is imported here: a dry run and `xrec submit` choose jobs and do none of their work.
"""

from jobs.catalogue import COMPARE, JOBS, SERVE
from xrec.config.project import Project
from xrec.config.shared import JobConfig
from xrec.errors import ConfigError

PIPELINE = tuple(job.name for job in JOBS if job not in (COMPARE, SERVE))
"""The jobs that a run goes through; the others are run by their own commands only."""


def chosen_configs(
    project: Project, first: str | None = None, last: str | None = None
) -> dict[str, JobConfig]:
    """The configs of the project's jobs from `first` to `last`, in order.

    Raises ConfigError for a mistake in the file, for a job that is not in it, and for a job with a
    limit, after which it is not finished.
    """
    jobs = [job for job in project.jobs if job in PIPELINE]
    for option, name in (("--from", first), ("--until", last)):
        if name is not None and name not in jobs:
            raise ConfigError(
                f"{option} {name}: expected a job of the run, which has a section in "
                f"{project.source}: {', '.join(jobs) or 'none'}"
            )
    start = jobs.index(first) if first is not None else 0
    end = jobs.index(last) + 1 if last is not None else len(jobs)
    if not jobs[start:end]:
        raise ConfigError(
            f"{project.source}: no job to run"
            + (f" from {first} until {last}" if jobs else "; add sections, for example 'prepare:'")
        )
    configs = project.configs(jobs[start:end])
    for name, config in configs.items():
        if (limit := getattr(config, "limit", None)) is not None:
            raise ConfigError(
                f"{name}.limit = {limit}: a run of all jobs finishes each of them; take the limit "
                f"out, and give it to xrec {name}"
            )
    return configs
