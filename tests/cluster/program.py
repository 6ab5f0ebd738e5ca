"""Runs the program as a user does, in a process of its own."""

import os
import subprocess
import sys

from tests.local_cluster import LocalCluster


def xrec(*arguments: object, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run `xrec ARGUMENTS` with `variables` added to the environment."""
    return subprocess.run(
        [sys.executable, "-m", "xrec.cli", *map(str, arguments)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def xrec_on(
    cluster: LocalCluster, *arguments: object, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run `xrec ARGUMENTS --address` for a cluster, with its token."""
    address = ("--address", cluster.dashboard_url)
    return xrec(*arguments, *address, **cluster.environment, **variables)
