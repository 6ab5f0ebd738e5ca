"""`xrec cluster`: several Ray nodes on this machine, and the status of any cluster."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.command.arguments import Address, Debug
from jobs.command.commands import new_app
from jobs.command.exit_codes import exit_codes
from jobs.command.logging import configure_logging
from xrec.cli.jobs_command import jobs_table
from xrec.cli.text_table import text_table
from xrec.errors import ClusterError

if TYPE_CHECKING:
    from cluster.record import LocalCluster
    from cluster.status import ClusterStatus, NodeStatus

UP_HELP = """Start a Ray cluster of several nodes on this machine.

Each node is a Ray node of its own, on its own loopback address, and goes on after this command. Who
wants to use the cluster needs the token that is made for it; xrec finds it by the cluster's name.

\b
In:   --nodes, the head included; --cpus logical CPUs of each
Out:  the addresses, and how to use them; a record in $XDG_STATE_HOME/xrec/clusters, or in
      ~/.local/state/xrec/clusters

For trying out what several nodes do: they share this machine's cores and disk.

\b
Example:
  xrec cluster up --nodes 3
  xrec submit pretrain-graph configs/sample.yaml workspace=$PWD/workspace/sample
  xrec cluster down
"""

DOWN_HELP = """End a cluster that xrec cluster up started.

The processes of its nodes are ended, by their ids, and no others. What was in its memory is gone;
artifacts stay.

\b
In:   --name
Out:  the number of processes that were ended

\b
Example:
  xrec cluster down
"""

STATUS_HELP = """Nodes, resources and jobs of a cluster.

\b
In:   the cluster's --address, as in xrec submit; without it, all clusters that were started here
Out:  a line for each node (alive, dead, or lost: its process is gone and Ray has not noticed yet)
      and for each job; exit code 1 if a cluster does not answer, refuses, or has lost its head

\b
Example:
  xrec cluster status
  xrec cluster status --address http://10.0.0.5:8265
"""

Name = Annotated[
    str,
    typer.Option(
        "--name",
        metavar="NAME",
        help="What the cluster is called, also by --address and ray.address.",
    ),
]

app = new_app(no_args_is_help=True)


@app.command("up", help=UP_HELP)
def up_command(
    num_nodes: Annotated[
        int, typer.Option("--nodes", metavar="N", min=1, max=64, help="Nodes, the head included.")
    ] = 2,
    cpus: Annotated[
        int | None,
        typer.Option(
            "--cpus",
            metavar="N",
            min=1,
            help="Logical CPUs of each node. Without it, this machine's are shared out.",
        ),
    ] = None,
    name: Name = "dev",
    debug: Debug = False,
) -> None:
    """Run cluster.local.start_cluster."""
    configure_logging(debug)
    with exit_codes(debug):
        from cluster.local import start_cluster

        cpus_per_node = cpus or max(1, (os.cpu_count() or 1) // num_nodes)
        typer.echo(_started(start_cluster(name, num_nodes, cpus_per_node), cpus_per_node))


@app.command("down", help=DOWN_HELP)
def down_command(name: Name = "dev", debug: Debug = False) -> None:
    """Run cluster.local.stop_cluster."""
    configure_logging(debug)
    with exit_codes(debug):
        from cluster.local import stop_cluster

        typer.echo(f"cluster {name}: ended, {stop_cluster(name)} processes")


@app.command("status", help=STATUS_HELP)
def status_command(address: Address = None, debug: Debug = False) -> None:
    """Run cluster.status.cluster_status."""
    configure_logging(debug)
    with exit_codes(debug):
        from cluster.address import job_server
        from cluster.record import names
        from cluster.status import cluster_status

        found = [address] if address else names()
        if not found:
            typer.echo("no cluster was started on this machine; start one with: xrec cluster up")
        failures = []
        for each in found:
            try:
                server = job_server(each)
                typer.echo(_status(each, server.url, cluster_status(server)))
            except ClusterError as error:  # the others are shown all the same
                failures.append(error)
        for failure in failures[1:]:
            typer.echo(failure, err=True)
        if failures:
            raise failures[0]


def _started(cluster: "LocalCluster", cpus_per_node: int) -> str:
    return "\n".join(
        [
            f"cluster {cluster.name}: {len(cluster.nodes)} nodes with {cpus_per_node} "
            "logical CPU(s) each, token authentication on",
            f"  job server  {cluster.dashboard_url}      "
            f"xrec submit JOB CONFIG --address {cluster.name}",
            f"  Ray         {cluster.address}      ray.address={cluster.name}",
            "  other programs need: "
            + " ".join(f"{name}={value}" for name, value in cluster.environment.items()),
            f"  end it: xrec cluster down --name {cluster.name}",
        ]
    )


def _status(name: str, url: str, status: "ClusterStatus") -> str:
    states = [node.state for node in status.nodes]
    counts = ", ".join(
        f"{states.count(state)} {state}" for state in ("alive", "lost", "dead") if state in states
    )
    rows = [_row(node) for node in status.nodes]
    return "\n".join(
        [
            f"cluster {name} at {url}: {counts}",
            text_table(("node", "role", "state", "CPU", "GPU", "memory GiB", "id"), rows),
            jobs_table(status.jobs),
        ]
    )


def _row(node: "NodeStatus") -> tuple[str, ...]:
    role = "head" if node.is_head else "worker"
    if node.state != "alive":
        return node.address, role, node.state, "-", "-", "-", node.node_id[:12]
    return (
        node.address,
        role,
        node.state,
        _use(node, "CPU"),
        _use(node, "GPU"),
        _use(node, "memory", 2**30),
        node.node_id[:12],
    )


def _use(node: "NodeStatus", resource: str, unit: float = 1.0) -> str:
    return (
        f"{node.in_use.get(resource, 0) / unit:.3g} of {node.resources.get(resource, 0) / unit:.3g}"
    )
