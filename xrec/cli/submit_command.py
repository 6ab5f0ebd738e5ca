"""`xrec submit`: a job, or all of a project, run on a Ray cluster by its Jobs API."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.command.arguments import Address, ConfigPath, Debug, Overrides
from jobs.command.catalogue import job_named
from jobs.command.exit_codes import exit_codes
from jobs.command.logging import configure_logging, quiet_ray
from jobs.command.run import First, Last, Redo

if TYPE_CHECKING:
    from cluster.address import JobServer
    from xrec.config.shared import JobConfig

HELP = """Run a job on a Ray cluster, or with "run" all jobs of a project.

Sends code and config, follows the log, and ends as the job ends. After Ctrl-C the job goes on: see
xrec jobs. Artifacts must lie where every node finds them: s3://, or an absolute path on a disk that
all nodes share. AWS_* variables of this shell go with the job, data does not. A cluster with token
authentication takes the token in RAY_AUTH_TOKEN, at RAY_AUTH_TOKEN_PATH, or in ~/.ray/auth_token.

\b
In:   JOB, or run; CONFIG; the cluster's --address: http://host:8265, or the name of a cluster that
      xrec cluster up started here; without it, the one that runs here
Out:  the job's log on standard output; exit code 0 if it succeeded, 1 with the reason if not

\b
Example:
  xrec submit evaluate configs/yelp.yaml workspace=s3://my-bucket/yelp --address http://HEAD:8265
  xrec submit run configs/yelp.yaml workspace=s3://my-bucket/yelp --until train-adapter
"""


@dataclass(frozen=True)
class _Submission:
    """A module of jobs/ with its arguments, and the configs that it will read."""

    module: str
    arguments: list[str]
    configs: "list[JobConfig]"


def submit(
    job_name: Annotated[str, typer.Argument(metavar="JOB", help="The job's name, or run.")],
    config_path: ConfigPath,
    overrides: Overrides = None,
    first: First = None,
    last: Last = None,
    redo: Redo = False,
    address: Address = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow/--no-follow",
            help="Follow the log until the job ends, or return once it is submitted.",
        ),
    ] = True,
    packages: Annotated[
        str | None,
        typer.Option(
            "--packages",
            metavar="FILE",
            help="Install these packages for the job, e.g. requirements/lock.txt.",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Run cluster.submit."""
    configure_logging(debug)
    with exit_codes(debug):
        given = overrides or []
        submission = (
            _whole_run(config_path, given, first, last, redo)
            if job_name == "run"
            else _one_job(job_name, config_path, given, bool(first or last or redo))
        )
        _check_no_secrets(given)
        from cluster.address import job_server

        server = job_server(address)
        submission_id = _submit(submission, config_path, server, packages)
        typer.echo(f"{job_name} submitted as {submission_id}", err=True)
        if follow:
            _follow(submission_id, server, address)


def _one_job(
    name: str, config_path: str, overrides: list[str], has_run_options: bool
) -> _Submission:
    from xrec.errors import ConfigError

    job = job_named(name)
    if has_run_options:
        raise ConfigError(f"--from, --until and --redo go with xrec submit run, saw {name}")
    return _Submission(job.module_name, overrides, [job.load_config(config_path, overrides)])


def _whole_run(
    config_path: str, overrides: list[str], first: str | None, last: str | None, redo: bool
) -> _Submission:
    from jobs.pipeline import chosen_configs
    from xrec.config.project import read_project

    configs = chosen_configs(read_project(config_path, overrides), first, last)
    options = [
        *(["--from", first] if first else []),
        *(["--until", last] if last else []),
        *(["--redo"] if redo else []),
    ]
    return _Submission("run", [*overrides, *options], list(configs.values()))


def _check_no_secrets(overrides: list[str]) -> None:
    """Raise ConfigError if the command line holds a secret: the cluster shows it in its lists."""
    from xrec.config.project import secret_overrides
    from xrec.errors import ConfigError

    if secret := secret_overrides(overrides):
        raise ConfigError(
            f"{', '.join(secret)}: a secret would be seen in the cluster's list of jobs; give "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, which go with the job"
        )


def _submit(
    submission: _Submission, config_path: str, server: "JobServer", packages: str | None
) -> str:
    from cluster.runtime_env import read_pinned
    from cluster.submit import check_shared_paths, shared_path_check, submit_job

    quiet_ray()
    for config in submission.configs:
        check_shared_paths(config)
    pinned = read_pinned(packages) if packages else []
    checks = filter(None, map(shared_path_check, submission.configs))
    return submit_job(
        submission.module,
        config_path,
        submission.arguments,
        server,
        packages=pinned,
        first=next(checks, ""),
    )


def _follow(submission_id: str, server: "JobServer", address: str | None) -> None:
    from cluster.submit import follow_job

    try:
        follow_job(submission_id, server, write=lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        same = f" --address {address}" if address else ""
        typer.echo(
            f"{submission_id} goes on; follow it with: xrec jobs logs {submission_id} "
            f"--follow{same}; stop it with: xrec jobs stop {submission_id}{same}",
            err=True,
        )
        raise
