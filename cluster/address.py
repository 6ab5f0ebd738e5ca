"""Which cluster is meant: the name of one that `xrec cluster up` started here, or an address of any other."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from cluster import record
from cluster.record import LocalCluster
from cluster.token import auth_headers
from xrec.errors import ConfigError


@dataclass(frozen=True)
class JobServer:
    """A cluster's dashboard and job server. `headers` prove the right to use it; `local` is its record if it runs on this machine."""

    url: str
    headers: Mapping[str, str]
    local: LocalCluster | None = None


def job_server(address: str | None) -> JobServer:
    """The job server at `address`: a URL, or the name of a local cluster; None: RAY_API_SERVER_ADDRESS, else the one local cluster there is.

    Raises ConfigError if that names none, or none is named and there is not just one.
    """
    address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or _only_name()
    if not record.is_name(address):
        return JobServer(address, auth_headers())
    cluster = named_cluster(address)
    return JobServer(cluster.dashboard_url, auth_headers(cluster.environment), cluster)


def named_cluster(name: str) -> LocalCluster:
    """The local cluster `name`; raises ConfigError."""
    cluster = record.find(name)
    if cluster is None:
        raise ConfigError(
            f"address {name!r}: no cluster of that name was brought up on this machine (there are: {', '.join(record.names()) or 'none'}); "
            "expected host:port, a URL such as http://host:8265, or a name given to `xrec cluster up --name`"
        )
    return cluster


def _only_name() -> str:
    names = record.names()
    if len(names) == 1:
        return names[0]
    there = (
        f"several clusters run on this machine ({', '.join(names)})"
        if names
        else "no cluster was brought up on this machine"
    )
    raise ConfigError(
        f"which cluster? {there}; give --address URL or --address NAME, or set RAY_API_SERVER_ADDRESS, or start one: xrec cluster up"
    )
