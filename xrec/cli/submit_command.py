"""`xrec submit`: a job, run on a Ray cluster by its Jobs API."""

from typing import Annotated

import typer

from xrec.cli.arguments import ConfigPath, Debug, Overrides
from xrec.cli.exit_codes import exit_codes
from xrec.cli.job import job_named
from xrec.cli.logging import configure_logging, quiet_ray

HELP = """Run a job on a Ray cluster.

Sends code and config, follows the log, ends as the job ends.

\b
In:   JOB (prepare, pretrain-graph, recommend, train-adapter, backfill, evaluate), its CONFIG, the cluster's --address
Out:  the job's log on standard output; exit code 0 if it succeeded, 1 with the reason if not

The config is checked here first. AWS_* variables go with the job. Artifacts must lie where every node finds
them: s3://, or an absolute path on a disk that all nodes share. Ctrl-C stops following, not the job.
A cluster with token authentication takes the token in RAY_AUTH_TOKEN, at RAY_AUTH_TOKEN_PATH, or in ~/.ray/auth_token.

\b
Example:
  xrec submit pretrain-graph configs/yelp/pretrain-graph.yaml workspace=s3://my-bucket/yelp --address http://10.0.0.5:8265
"""


def submit(
    job_name: Annotated[str, typer.Argument(metavar="JOB", help="The job's name.")],
    config_path: ConfigPath,
    address: Annotated[
        str, typer.Option("--address", metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="The cluster's job server, http://host:8265.")
    ],
    overrides: Overrides = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Follow the log until the job ends, or return once it is submitted.")] = True,
    debug: Debug = False,
) -> None:
    """Run cluster.submit."""
    configure_logging(debug)
    with exit_codes(debug):
        job = job_named(job_name)
        config = job.load_config(config_path, overrides or [])
        from cluster.submit import check_shared_paths, submit_job

        quiet_ray()
        check_shared_paths(config)
        submission_id = submit_job(job.module, config_path, overrides or [], address)
        typer.echo(f"{job.name} submitted as {submission_id}", err=True)
        if follow:
            _follow(submission_id, address)


def _follow(submission_id: str, address: str) -> None:
    from cluster.submit import follow_job

    try:
        follow_job(submission_id, address, write=lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        typer.echo(f"{submission_id} goes on; stop it with: ray job stop {submission_id} --address {address}", err=True)
        raise
