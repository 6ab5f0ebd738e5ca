"""Jobs of a cluster are listed, their logs are read, and they are stopped."""

import time
from collections.abc import Iterator

import pytest
from ray.job_submission import JobSubmissionClient

from cluster.address import JobServer
from cluster.jobs import find_job, job_logs, list_jobs, stop_job
from tests.cluster.program import xrec
from xrec.errors import ClusterError


@pytest.fixture
def client(server: JobServer) -> JobSubmissionClient:
    return JobSubmissionClient(server.url, headers=dict(server.headers))


@pytest.fixture
def sleeper(client: JobSubmissionClient) -> Iterator[str]:
    """A job that prints a line and does not end by itself."""
    submission_id = str(client.submit_job(entrypoint="echo asleep; sleep 600"))
    yield submission_id
    client.stop_job(submission_id)


def _wait_for_log(server: JobServer, submission_id: str, text: str) -> None:
    deadline = time.monotonic() + 60
    while text not in job_logs(server, submission_id):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_list_jobs_has_the_running_one_with_its_entrypoint(server: JobServer, sleeper: str) -> None:
    _wait_for_log(server, sleeper, "asleep")
    (job,) = [job for job in list_jobs(server) if job.submission_id == sleeper]
    assert (job.status, job.entrypoint) == ("RUNNING", "echo asleep; sleep 600")
    done = xrec("jobs", "list")
    assert done.returncode == 0, done.stderr
    assert any(line.split()[:2] == [sleeper, "RUNNING"] for line in done.stdout.splitlines())
    assert any(
        line.split()[:2] == [sleeper, "RUNNING"]
        for line in xrec("cluster", "status").stdout.splitlines()
    )


def test_jobs_stop_ends_it_and_says_how_and_leaves_an_ended_job_as_it_is(
    server: JobServer, sleeper: str
) -> None:
    _wait_for_log(server, sleeper, "asleep")
    done = xrec("jobs", "stop", sleeper)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{sleeper} STOPPED\n"
    ended = find_job(server, sleeper)
    assert ended.status == "STOPPED"
    assert stop_job(server, sleeper) == ended
    logs = xrec("jobs", "logs", sleeper)
    assert logs.returncode == 0, logs.stderr
    assert "asleep\n" in logs.stdout


def test_jobs_logs_follow_ends_as_the_job_ends(client: JobSubmissionClient) -> None:
    failing = client.submit_job(entrypoint="echo one; sleep 1; echo two; exit 3")
    done = xrec("jobs", "logs", failing, "--follow")
    assert done.returncode == 1
    lines = done.stdout.splitlines()  # Ray writes a line of its own somewhere between them
    assert lines.index("one") < lines.index("two")
    assert "exit code 3" in done.stderr


@pytest.mark.parametrize("command", ["logs", "stop"])
def test_jobs_unknown_id_exits_1_and_says_where_the_ids_are(
    three_nodes: object, command: str
) -> None:
    done = xrec("jobs", command, "raysubmit_nothing")
    assert done.returncode == 1
    assert "raysubmit_nothing" in done.stderr
    assert "xrec jobs list" in done.stderr


def test_jobs_unknown_id_is_an_error_of_the_library_too(server: JobServer) -> None:
    with pytest.raises(ClusterError, match="raysubmit_nothing"):
        find_job(server, "raysubmit_nothing")
