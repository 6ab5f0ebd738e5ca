"""Everything dies, at random and more than once, and the store fails 5 % of the requests: the rows are those of an unbroken run.

XREC_CHAOS_PAIRS and XREC_CHAOS_KILLS scale it: 50,000 and 20 are what the project is to be seen with; the defaults take minutes.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.backfill_catalogue import backfill_config, make_catalogue
from cluster.local import local_cluster
from cluster.record import LocalCluster
from tests.faulty_proxy import Faults, faulty_proxy
from tests.object_store import ObjectStore
from tests.xrec.backfill.runs import output_of, pairs_of, rows_by_manifest
from xrec.config import BackfillConfig, StorageConfig
from xrec.storage import read_manifest

NUM_PAIRS = int(os.environ.get("XREC_CHAOS_PAIRS", "2000"))
NUM_KILLS = int(os.environ.get("XREC_CHAOS_KILLS", "6"))
ROWS_PER_CHUNK = 64


class Chaos:
    """A driver that is started again whenever it is gone, and what is killed meanwhile."""

    def __init__(self, cluster: LocalCluster, folder: Path, output: str, store: dict[str, str]):
        self._command = [sys.executable, "-m", "tests.xrec.backfill.chaos_driver", str(folder), output, str(ROWS_PER_CHUNK), "0.02"]
        self._environment = {**os.environ, **store, **cluster.environment, "RAY_ADDRESS": cluster.address}
        self._cluster = cluster
        self._log = folder / "drivers.log"
        self._draw = random.Random(0)
        self.kills: list[str] = []
        self.driver = self._start()

    def run(self) -> None:
        """Kill things until there were enough, then let it end."""
        deadline = time.monotonic() + 3000
        while time.monotonic() < deadline:
            if self.driver.poll() == 0:
                return
            if self.driver.poll() is not None:
                self.driver = self._start()
            time.sleep(self._draw.uniform(4.0, 12.0))
            if len(self.kills) < NUM_KILLS:
                self._kill()
        pytest.fail(f"not done in time; killed {self.kills}; the drivers' log ends:\n{self._log.read_text()[-3000:]}")

    def _start(self) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            return subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)

    def _kill(self) -> None:
        """An actor, mostly; the driver; one of the nodes, once."""
        actors = [process for process in psutil.process_iter(["cmdline"]) if self._is_actor(process)]
        kind = "node" if len(self.kills) == NUM_KILLS // 2 else self._draw.choice(["actor", "actor", "driver"])
        if kind == "node":
            self._cluster.nodes[-1].kill()
        elif kind == "driver" and self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()
        elif actors:
            self._draw.choice(actors).kill()
        else:
            return
        self.kills.append(kind)

    def _is_actor(self, process: psutil.Process) -> bool:
        """True for an actor of this test's cluster: other clusters on this machine are none of its business."""
        is_actor = bool(process.info["cmdline"]) and process.info["cmdline"][0].startswith("ray::MapWorker")
        nodes = {node.pid for node in self._cluster.nodes}
        return is_actor and bool(nodes.intersection(parent.pid for parent in process.parents()))


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """Three nodes of its own."""
    with local_cluster(num_workers=2, cpus_per_node=2) as nodes:
        yield nodes


@pytest.mark.slow
@pytest.mark.timeout(4000)
def test_backfill_in_chaos_has_the_rows_of_an_unbroken_run_each_once(cluster: LocalCluster, s3: ObjectStore, tmp_path: Path) -> None:
    make_catalogue(tmp_path, NUM_PAIRS)
    bucket, faults = s3.new_bucket(), Faults(share=0.05)
    with faulty_proxy(s3.endpoint_url, faults) as endpoint_url:
        chaos = Chaos(cluster, tmp_path, f"{bucket}/chaos", {**s3.environment, "AWS_ENDPOINT_URL": endpoint_url})
        chaos.run()
    unbroken = [*chaos._command[:4], f"{bucket}/unbroken", str(ROWS_PER_CHUNK), "0"]
    subprocess.run(unbroken, env={**chaos._environment, **s3.environment}, check=True)

    assert len(chaos.kills) == NUM_KILLS, chaos.kills
    assert faults.num_failed > 0.02 * faults.num_requests
    broken, whole = (output_of(_config(tmp_path, f"{bucket}/{name}", s3.storage)) for name in ("chaos", "unbroken"))
    rows = rows_by_manifest(broken)
    assert len(rows) == len(set(pairs_of(rows))) == NUM_PAIRS
    assert rows == rows_by_manifest(whole)
    assert rows_by_manifest(broken, failed=True) == []
    manifests = [read_manifest(output, "explanations") for output in (broken, whole)]
    assert manifests[0].files == manifests[1].files  # byte for byte: a file's name and hash tell its content
    assert {name for name in broken.files() if name.startswith("part-")} == set(manifests[0].files)


def _config(folder: Path, output: str, storage: StorageConfig, **values: Any) -> BackfillConfig:
    return backfill_config(folder, output, storage, rows_per_chunk=ROWS_PER_CHUNK, **values)
