"""A cluster of a head and a worker: how its nodes are checked before a job, and `xrec submit`."""

import json
import re
from typing import Any

import pytest

from tests.world.cluster import local_cluster
from tests.world.program import python
from tests.world.shop import SAMPLE, write_yaml
from xrec.storage import open_location, read_manifest

ASK = """
import json, sys
from xrec.cluster.connect import ensure_ray
from xrec.cluster.preflight import Demand, check_cluster
from xrec.config import RayConfig, StorageConfig
from xrec.errors import ClusterError

address, *questions = json.loads(sys.argv[1])
with ensure_ray(RayConfig(address=address)):
    for output, cpus, storage in questions:
        answer = None
        try:
            demand = Demand(1, 1, cpus, 0, "workers.num_processes")
            check_cluster(demand, output, StorageConfig(**storage))
        except ClusterError as error:
            answer = [error.code, error.saw, str(error)]
        print(json.dumps(answer))
"""
NODES = {"127.0.0.2", "127.0.0.3"}
ELSEWHERE = "/proc/self/cwd/workspace/graph"
"""A different folder for each process, as a local disk is for each machine."""


@pytest.fixture(scope="module")
def two_nodes():
    """A head and a worker with one CPU each."""
    with local_cluster(num_workers=1) as cluster:
        yield cluster


@pytest.fixture
def ask(two_nodes, tmp_path):
    """A function that checks the nodes for each output, number of CPUs and `storage` section."""

    def run(*questions: tuple[str, int, dict[str, str]], **variables: str) -> list[Any]:
        argument = json.dumps([two_nodes.address, *questions])
        done = python("-c", ASK, argument, cwd=tmp_path, **two_nodes.environment, **variables)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_preflight_names_what_is_wrong_on_which_node(ask, s3, tmp_path):
    """The AWS variables are set for the driver but not for the nodes."""
    shared, on_s3 = str(tmp_path / "graph"), f"{s3.new_bucket()}/graph"
    questions = [(shared, 1, {}), (on_s3, 1, s3.keys), (shared, 2, {})]
    questions += [(ELSEWHERE, 1, {}), (on_s3, 1, {})]
    *ready, large, unshared, without_keys = ask(*questions, **s3.environment)
    assert ready == [None, None]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert large[:2] == ["too_few_resources", 0]
    for (code, saw, text), kind in ((unshared, "unshared"), (without_keys, "storage")):
        assert (code, {*map(tuple, saw)}) == ("nodes_differ", {(n, kind) for n in NODES}), text


@pytest.fixture
def submit(two_nodes, tmp_path):
    """A function that runs `xrec submit` of a project with the job `prepare`."""
    values = {"workspace": str(tmp_path / "workspace"), "prepare": {"source": SAMPLE}}
    path = write_yaml(tmp_path / "prepare.yaml", values)

    def run(job: str, *words: object, **variables: str) -> Any:
        command = ("submit", job, path, *words, "--address", two_nodes.dashboard_url)
        done = python("-m", "xrec.cli", *command, **{**two_nodes.environment, **variables})
        assert "Traceback" not in done.stderr[done.stderr.find("error: ") :]
        return done

    return run


def test_submit_run_follows_the_log_and_leaves_the_artifact_on_s3(s3, submit):
    workspace = s3.new_bucket()
    words = (f"workspace={workspace}", "prepare.source.num_users=30", "--until", "prepare")
    done = submit("run", *words, **s3.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[1/1] xrec prepare prepare.yaml" in done.stdout
    manifest = read_manifest(open_location(f"{workspace}/dataset", s3.storage), "dataset")
    assert manifest.row_counts["users"] == 30


DRIVERS = """
import sys
from ray.job_submission import JobSubmissionClient

for job in JobSubmissionClient(sys.argv[1]).list_jobs():
    print(job.driver_agent_http_address)
"""


@pytest.mark.slow
def test_driver_runs_on_a_node_that_has_the_resource(two_nodes, submit):
    """Each node has a resource with its address. Ray finds such a log only on another machine."""
    done = submit("prepare", "prepare.source.num_users=30", "--driver", "node:127.0.0.3")
    assert done.returncode == 0, done.stdout + done.stderr
    drivers = python("-c", DRIVERS, two_nodes.dashboard_url, **two_nodes.environment).stdout
    assert "http://127.0.0.3:" in drivers


@pytest.mark.slow
def test_submit_with_a_key_runs_once_and_again_only_after_a_failure(submit, tmp_path):
    def with_key(*words: str) -> tuple[int, Any, str]:
        done = submit("prepare", "--key", "2026-11-28T02:00", "--json", *words)
        lines = done.stdout.splitlines()
        return done.returncode, json.loads(lines[0]) if len(lines) == 1 else lines, done.stderr

    missing = f"source={{kind: tables, uri: {tmp_path / 'nowhere'}}}"
    code, ended, err = with_key(missing)
    assert (code, ended["state"], "nowhere" in err) == (1, "FAILED", True), err
    assert "nowhere" in ended["result"]["error"]
    name = ended["submission_id"].removesuffix("-1")
    assert re.fullmatch(r"xrec-prepare-2026-11-28T02-00-[0-9a-f]{8}", name)
    code, ended, err = with_key()
    done = {"job": "prepare", "submission_id": f"{name}-2", "state": "SUCCEEDED", "exit_code": 0}
    result = ended["result"]
    assert (code, ended, result["artifact"]) == (0, {**done, "result": result}, "dataset"), err
    code, again, err = with_key()
    assert (code, again, "users" in err) == (0, ended, False), err
    assert "prepare exists already, succeeded" in err
    code, _, err = with_key("splits.test=0.25")
    assert (code, "use another --key" in err) == (2, True), err
