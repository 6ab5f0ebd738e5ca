"""Jobs of a cluster are listed, their logs are read, they are stopped; nodes are listed."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.cluster.program import xrec, xrec_on
from tests.local_cluster import LocalCluster

SUBMITS = """
import sys
from cluster.jobs import JobServer
print(JobServer(sys.argv[1]).client.submit_job(entrypoint=sys.argv[2]))
"""


def _started(cluster: LocalCluster, entrypoint: str) -> str:
    """The id of a job that is any command. Ray reads its token once, so a process submits it."""
    return subprocess.run(
        [sys.executable, "-c", SUBMITS, cluster.dashboard_url, entrypoint],
        # Ray's clients would take this one, if they were let.
        env={**os.environ, **cluster.environment, "RAY_ADDRESS": "127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout.split()[-1]


@pytest.fixture
def sleeper(three_nodes: LocalCluster) -> Iterator[str]:
    """A job that has printed a line and does not end by itself."""
    submission_id = _started(three_nodes, "echo asleep; sleep 600")
    deadline = time.monotonic() + 60
    while "asleep\n" not in xrec_on(three_nodes, "jobs", "logs", submission_id).stdout:
        assert time.monotonic() < deadline
    yield submission_id
    xrec_on(three_nodes, "jobs", "stop", submission_id)


def test_job_is_listed_with_the_nodes_and_stopped_and_stays_as_it_is(
    three_nodes: LocalCluster, sleeper: str
) -> None:
    for command in (("jobs", "list"), ("cluster", "status")):
        done = xrec_on(three_nodes, *command)
        assert done.returncode == 0, done.stderr
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(sleeper)]
        assert line.split()[1] == "RUNNING"
        assert line.endswith("echo asleep; sleep 600")
    nodes = [line.split() for line in done.stdout.splitlines() if line.startswith("127.")]
    assert [(*node[:4], node[-1]) for node in nodes] == [
        (address, "worker" if number else "head", "alive", "1", three_nodes.alive()[address])
        for number, address in enumerate(("127.0.0.2", "127.0.0.3", "127.0.0.4"))
    ]
    for _ in range(2):
        done = xrec_on(three_nodes, "jobs", "stop", sleeper)
        assert (done.returncode, done.stdout) == (0, f"{sleeper} STOPPED\n"), done.stderr


def test_jobs_logs_follow_ends_as_the_job_ends(three_nodes: LocalCluster) -> None:
    failing = _started(three_nodes, "echo one; sleep 1; echo two; exit 3")
    done = xrec_on(three_nodes, "jobs", "logs", failing, "--follow")
    assert done.returncode == 1
    lines = done.stdout.splitlines()  # Ray writes a line of its own somewhere between them
    assert lines.index("one") < lines.index("two")
    assert "exit code 3" in done.stderr


@pytest.mark.parametrize("command", [["logs"], ["logs", "--follow"], ["stop"]])
def test_jobs_unknown_id_exits_1_and_says_where_the_ids_are(
    three_nodes: LocalCluster, command: list[str]
) -> None:
    done = xrec_on(three_nodes, "jobs", *command, "raysubmit_nothing")
    assert done.returncode == 1
    assert "raysubmit_nothing" in done.stderr
    assert "xrec jobs list" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("variables", [{}, {"RAY_AUTH_TOKEN": "0" * 64, "RAY_AUTH_MODE": "token"}])
def test_without_the_token_exits_1_and_names_the_variables(
    three_nodes: LocalCluster, variables: dict[str, str]
) -> None:
    variables = {"RAY_AUTH_MODE": "disabled", **variables}
    done = xrec("cluster", "status", "--address", three_nodes.dashboard_url, **variables)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {three_nodes.dashboard_url}: Authentication")
    assert "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:9", "nothing answers at 'http://127.0.0.1:9' within 5 s"),
        ("127.0.0.1:9", "nothing answers at 'http://127.0.0.1:9' within 5 s"),
        ("my-cluster", "nothing answers at 'http://my-cluster' within 5 s"),
    ],
)
def test_an_address_where_nothing_listens_exits_1_and_is_named(address: str, words: str) -> None:
    done = xrec("jobs", "list", "--address", address)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
