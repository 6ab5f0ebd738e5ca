"""`xrec submit`: a job, run on a Ray cluster by its Jobs API."""

from typing import TYPE_CHECKING, Annotated

import typer

from xrec.cli.arguments import Address, ConfigPath, Debug, Overrides
from xrec.cli.exit_codes import exit_codes
from xrec.cli.job import Job, job_named
from xrec.cli.logging import configure_logging, quiet_ray

if TYPE_CHECKING:
    from cluster.address import JobServer
    from xrec.config.shared import JobConfig

HELP = """Run a job on a Ray cluster.

Sends code and config, follows the log, ends as the job ends.

\b
In:   JOB (prepare, pretrain-graph, recommend, train-adapter, backfill, evaluate), its CONFIG, the cluster's --address:
      http://host:8265, or the name of a cluster that xrec cluster up started here; none: the one that runs here
Out:  the job's log on standard output; exit code 0 if it succeeded, 1 with the reason if not

The config is checked here first; on the cluster a job first asks every node for its versions and whether it reaches
the storage. AWS_* variables go with the job, data does not. Artifacts must lie where every node finds them: s3://, or
an absolute path on a disk that all nodes share. With --packages the job gets the packages of a file of name==version
lines, installed by pip on each node. Ctrl-C stops following, not the job: see xrec jobs.
A cluster with token authentication takes the token in RAY_AUTH_TOKEN, at RAY_AUTH_TOKEN_PATH, or in ~/.ray/auth_token.

\b
Example:
  xrec submit pretrain-graph configs/yelp.yaml workspace=s3://my-bucket/yelp --address http://10.0.0.5:8265
"""


def submit(
    job_name: Annotated[str, typer.Argument(metavar="JOB", help="The job's name.")],
    config_path: ConfigPath,
    overrides: Overrides = None,
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
        job = job_named(job_name)
        config = job.load_config(config_path, overrides or [])
        from cluster.address import job_server

        server = job_server(address)
        submission_id = _submit(job, config, config_path, overrides or [], server, packages)
        typer.echo(f"{job.name} submitted as {submission_id}", err=True)
        if follow:
            _follow(submission_id, server, address)


def _submit(
    job: Job,
    config: "JobConfig",
    config_path: str,
    overrides: list[str],
    server: "JobServer",
    packages: str | None,
) -> str:
    from cluster.runtime_env import read_pinned
    from cluster.submit import check_shared_paths, shared_path_check, submit_job

    quiet_ray()
    check_shared_paths(config)
    pinned = read_pinned(packages) if packages else []
    return submit_job(
        job.module, config_path, overrides, server, packages=pinned, first=shared_path_check(config)
    )


def _follow(submission_id: str, server: "JobServer", address: str | None) -> None:
    from cluster.submit import follow_job

    try:
        follow_job(submission_id, server, write=lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        same = f" --address {address}" if address else ""
        typer.echo(
            f"{submission_id} goes on; follow it with: xrec jobs logs {submission_id} --follow{same}; stop it with: xrec jobs stop",
            err=True,
        )
        raise
