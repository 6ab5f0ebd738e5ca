"""Finds the cluster that a user means.

An address is either the name of a cluster that `xrec cluster up` started on this machine, or the
URL of any other cluster.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from cluster import record
from cluster.record import LocalCluster
from cluster.token import auth_headers
from xrec.errors import ConfigError


@dataclass(frozen=True)
class JobServer:
    """The dashboard of a cluster, which is also its job server.

    `headers` are the HTTP headers that authenticate a request. `local` is the record of the
    cluster if `xrec cluster up` started it on this machine.
    """

    url: str
    headers: Mapping[str, str]
    local: LocalCluster | None = None


def job_server(address: str | None) -> JobServer:
    """Return the job server at `address`: a URL, host:port, or the name of a local cluster.

    If `address` is None, RAY_API_SERVER_ADDRESS is used; if that is not set either, the only
    local cluster is used. Raises ConfigError if no local cluster has the given name, or if
    nothing is named and the number of local clusters is not one.
    """
    address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or _only_name()
    if not record.is_name(address):
        is_host_and_port = "://" not in address and ":" in address
        return JobServer(f"http://{address}" if is_host_and_port else address, auth_headers())
    cluster = named_cluster(address)
    return JobServer(cluster.dashboard_url, auth_headers(cluster.environment), cluster)


def named_cluster(name: str) -> LocalCluster:
    """Return the local cluster called `name`; raises ConfigError if there is none."""
    cluster = record.find(name)
    if cluster is None:
        known = ", ".join(record.names()) or "none"
        raise ConfigError(
            f"address {name!r}: no cluster with this name was started on this machine "
            f"(known names: {known}); expected host:port, a URL such as http://host:8265, "
            "or a name given to `xrec cluster up --name`"
        )
    return cluster


def _only_name() -> str:
    names = record.names()
    if len(names) == 1:
        return names[0]
    reason = (
        f"several clusters run on this machine ({', '.join(names)})"
        if names
        else "no cluster was started on this machine"
    )
    raise ConfigError(
        f"no cluster is named, and {reason}; give --address URL or --address NAME, "
        "set RAY_API_SERVER_ADDRESS, or start a cluster: xrec cluster up"
    )
