"""`xrec jobs`: what runs and ran on a cluster."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.command.arguments import Address, Debug
from jobs.command.commands import new_app
from jobs.command.exit_codes import exit_codes
from jobs.command.logging import configure_logging, quiet_ray
from xrec.cli.text_table import text_table

if TYPE_CHECKING:
    from cluster.jobs import JobEntry

LIST_HELP = """All jobs that a cluster remembers.

\b
In:   the cluster's --address, as in xrec submit
Out:  a line for each job, the last started first: id, status, start, duration, what it runs

\b
Example:
  xrec jobs list --address http://10.0.0.5:8265
"""

LOGS_HELP = """What a job has printed.

\b
In:   the job's ID, the cluster's --address
Out:  its log; with --follow as it comes, until the job ends: exit code 0 if it succeeded, 1 if not

\b
Example:
  xrec jobs logs raysubmit_Gp5Zk2Fq9LmTb3Wc --follow
"""

STOP_HELP = """End a job before its time.

A training job or a backfill that is submitted again goes on from where it was stopped.

\b
In:   the job's ID, the cluster's --address
Out:  how it ended; a job that had ended already stays as it is

\b
Example:
  xrec jobs stop raysubmit_Gp5Zk2Fq9LmTb3Wc
"""

JobId = Annotated[
    str,
    typer.Argument(metavar="ID", help="The job's id, as xrec submit and xrec jobs list show it."),
]

app = new_app(no_args_is_help=True)


@app.command("list", help=LIST_HELP)
def list_command(address: Address = None, debug: Debug = False) -> None:
    """Run cluster.jobs.list_jobs."""
    configure_logging(debug)
    with exit_codes(debug):
        from cluster.address import job_server
        from cluster.jobs import list_jobs

        typer.echo(jobs_table(list_jobs(job_server(address))))


@app.command("logs", help=LOGS_HELP)
def logs_command(
    submission_id: JobId,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends.")] = False,
    debug: Debug = False,
) -> None:
    """Run cluster.jobs.job_logs or cluster.submit.follow_job."""
    configure_logging(debug)
    with exit_codes(debug):
        from cluster.address import job_server
        from cluster.jobs import find_job, job_logs

        server = job_server(address)
        if not follow:
            typer.echo(job_logs(server, submission_id), nl=False)
            return
        find_job(server, submission_id)
        from cluster.submit import follow_job

        quiet_ray()
        follow_job(submission_id, server, write=lambda text: typer.echo(text, nl=False))


@app.command("stop", help=STOP_HELP)
def stop_command(submission_id: JobId, address: Address = None, debug: Debug = False) -> None:
    """Run cluster.jobs.stop_job."""
    configure_logging(debug)
    with exit_codes(debug):
        from cluster.address import job_server
        from cluster.jobs import stop_job

        typer.echo(f"{submission_id} {stop_job(job_server(address), submission_id).status}")


def jobs_table(jobs: Sequence["JobEntry"]) -> str:
    """A line for each job. A driver that connected by itself has no id, and cannot be stopped."""
    if not jobs:
        return "no jobs"
    rows = [
        (job.submission_id or "(driver)", job.status, _moment(job), _duration(job), job.entrypoint)
        for job in jobs
    ]
    return text_table(("job", "status", "started", "seconds", "entrypoint"), rows)


def _moment(job: "JobEntry") -> str:
    return job.started_at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if job.started_at else "-"


def _duration(job: "JobEntry") -> str:
    return f"{job.seconds:.0f}" if job.seconds is not None else "-"
