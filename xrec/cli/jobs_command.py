"""`xrec jobs` and `xrec cluster status`: what runs and ran on a cluster, and its nodes."""

import logging
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from xrec.cli.arguments import Address, new_app
from xrec.cli.reporting import reporting
from xrec.cli.text_table import text_table

if TYPE_CHECKING:
    from cluster.jobs import JobDetails, JobServer, NodeState

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

STATUS_HELP = """Nodes and jobs of a cluster. What is in use of a node stands in the dashboard.

\b
In:   the cluster's --address, as in xrec submit
Out:  a line for each node (alive or dead) and for each job; exit code 1 if the cluster does not
      answer or refuses

\b
Example:
  xrec cluster status --address http://10.0.0.5:8265
"""

JobId = Annotated[
    str,
    typer.Argument(metavar="ID", help="The job's id, as xrec submit and xrec jobs list show it."),
]

app = new_app(no_args_is_help=True)
cluster_app = new_app(no_args_is_help=True)


@cluster_app.callback()
def _cluster() -> None:
    """With a callback, Typer keeps the name of the only command."""


@app.command("list", help=LIST_HELP)
@reporting
def list_command(address: Address = None) -> None:
    """Print the jobs."""
    typer.echo(_jobs_table(job_server(address).jobs()))


@app.command("logs", help=LOGS_HELP)
@reporting
def logs_command(
    submission_id: JobId,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends.")] = False,
) -> None:
    """Print the log of a job."""
    server = job_server(address)
    if follow:
        server.follow(submission_id, write=lambda text: typer.echo(text, nl=False))
    else:
        typer.echo(server.logs(submission_id), nl=False)


@app.command("stop", help=STOP_HELP)
@reporting
def stop_command(submission_id: JobId, address: Address = None) -> None:
    """Stop a job and say how it ended."""
    typer.echo(f"{submission_id} {job_server(address).stop(submission_id)}")


@cluster_app.command("status", help=STATUS_HELP)
@reporting
def status_command(address: Address = None) -> None:
    """Print the nodes and the jobs."""
    server = job_server(address)
    typer.echo(_nodes_table(server.nodes()))
    typer.echo(_jobs_table(server.jobs()))


def job_server(address: str | None) -> "JobServer":
    """The job server at `address`; raises ClusterError."""
    from cluster.jobs import JobServer

    logging.getLogger("ray").setLevel(logging.WARNING)  # its import sets the level of all lines
    return JobServer(address)


def _nodes_table(nodes: Sequence["NodeState"]) -> str:
    header = ("node", "role", "state", "CPU", "GPU", "memory GiB", "id")
    return text_table(header, [_node_row(node) for node in nodes])


def _node_row(node: "NodeState") -> tuple[str, ...]:
    role, total = "head" if node.is_head_node else "worker", node.resources_total
    amounts = (total.get("CPU", 0), total.get("GPU", 0), total.get("memory", 0) / 2**30)
    shown = (f"{amount:.3g}" for amount in amounts)
    return (node.node_ip, role, node.state.lower(), *shown, node.node_id)


def _jobs_table(jobs: Sequence["JobDetails"]) -> str:
    """A line for each job. A driver that connected by itself has no id, and cannot be stopped."""
    header = ("job", "status", "started", "seconds", "entrypoint")
    return text_table(header, [_job_row(job) for job in jobs]) if jobs else "no jobs"


def _job_row(job: "JobDetails") -> tuple[str, ...]:
    name, started, seconds = job.submission_id or "(driver)", "-", "-"
    if job.start_time:  # ms since 1970
        started = datetime.fromtimestamp(job.start_time / 1000).strftime("%Y-%m-%d %H:%M:%S")
        seconds = f"{(job.end_time or time.time() * 1000) / 1000 - job.start_time / 1000:.0f}"
    return (name, str(job.status), started, seconds, job.entrypoint)
