"""Runs the program as a user does, in a process of its own, with a project file of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.local_cluster import LocalCluster

SAMPLE = {
    "kind": "sample",
    "num_users": 20,
    "num_items": 12,
    "interactions_per_user": 6,
    "explanations_per_user": 3,
}


def write_config(path: Path, values: dict[str, Any]) -> Path:
    """Write a config file with `values`, and return its path."""
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


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
