"""Lists the jobs of a cluster, reads their logs and stops them, by Ray's REST API for jobs.

https://docs.ray.io/en/latest/cluster/running-applications/job-submission/rest.html
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from cluster.address import JobServer
from cluster.dashboard import ask
from xrec.errors import ClusterError

ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})

_STOP_SECONDS = 60.0


@dataclass(frozen=True)
class JobEntry:
    """A job as the cluster knows it.

    `submission_id` is empty for a driver that connected by itself and was not submitted.
    `seconds` is how long the job has run, or ran until it ended.
    """

    submission_id: str
    status: str
    entrypoint: str
    started_at: datetime | None
    seconds: float | None
    message: str


def list_jobs(server: JobServer) -> list[JobEntry]:
    """Return all jobs that the cluster remembers, the last started first.

    Raises ClusterError if the cluster does not answer.
    """
    found = [_entry(row) for row in ask(server, "/api/jobs/")]
    never = datetime.fromtimestamp(0, UTC)
    return sorted(found, key=lambda job: job.started_at or never, reverse=True)


def job_logs(server: JobServer, submission_id: str) -> str:
    """Return what the job has printed so far; raises ClusterError if the job is unknown."""
    answer = ask(server, f"{_path(submission_id)}/logs")
    if answer is None:
        raise _unknown(server, submission_id)
    return str(answer["logs"])


def stop_job(server: JobServer, submission_id: str) -> JobEntry:
    """Ask the job to stop, wait until it has ended, and return its final state.

    A job that has ended already is returned at once. Raises ClusterError if the job is unknown,
    or still runs a minute later.
    """
    job = find_job(server, submission_id)
    if job.status not in ENDED:
        ask(server, f"{_path(submission_id)}/stop", method="POST")
    deadline = time.monotonic() + _STOP_SECONDS
    while job.status not in ENDED:
        if time.monotonic() > deadline:
            raise ClusterError(
                f"job {submission_id} is still {job.status} {_STOP_SECONDS:g} s after it was "
                "asked to stop; look at it again with: xrec jobs list"
            )
        time.sleep(0.5)
        job = find_job(server, submission_id)
    return job


def find_job(server: JobServer, submission_id: str) -> JobEntry:
    """Return the job; raises ClusterError if it is unknown."""
    row = ask(server, _path(submission_id))
    if row is None:
        raise _unknown(server, submission_id)
    return _entry(row)


def _unknown(server: JobServer, submission_id: str) -> ClusterError:
    return ClusterError(
        f"{server.url}: no job has the id {submission_id!r}; to see the ids: xrec jobs list"
    )


def _path(submission_id: str) -> str:
    return f"/api/jobs/{quote(submission_id, safe='')}"


def _entry(row: Mapping[str, Any]) -> JobEntry:
    start, end = row.get("start_time"), row.get("end_time")  # ms since 1970
    return JobEntry(
        submission_id=row.get("submission_id") or "",
        status=row["status"],
        entrypoint=row.get("entrypoint") or "",
        started_at=datetime.fromtimestamp(start / 1000, UTC) if start else None,
        seconds=((end or time.time() * 1000) - start) / 1000 if start else None,
        message=(row.get("message") or "").strip(),
    )
