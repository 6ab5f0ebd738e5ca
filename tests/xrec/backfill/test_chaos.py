"""Actors, drivers and nodes are killed at random: the rows are those of an unbroken run.

The store fails 5 % of the requests. XREC_CHAOS_PAIRS and XREC_CHAOS_KILLS set the size; the full
size is 50,000 and 20, and the defaults take some minutes.
"""

import os
import random
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.backfill_catalogue import backfill_config, make_catalogue
from cluster.local import add_node, local_cluster
from cluster.node import stop_nodes
from tests.faulty_proxy import Faults, faulty_proxy
from tests.object_store import ObjectStore
from tests.xrec.backfill.runs import output_of, pairs_of, published_rows
from xrec.bulk import read_state
from xrec.config.backfill import BackfillConfig
from xrec.config.shared import StorageConfig
from xrec.storage import read_manifest
from xrec.table import Table

NUM_PAIRS = int(os.environ.get("XREC_CHAOS_PAIRS", "4000"))
NUM_KILLS = int(os.environ.get("XREC_CHAOS_KILLS", "6"))
ROWS_PER_CHUNK = 64


class Chaos:
    """A cluster of three nodes, and a driver that is started again whenever it has ended."""

    def __init__(self, folder: Path, output: str, store: dict[str, str]):
        self.command = [
            sys.executable,
            "-m",
            "tests.xrec.backfill.chaos_driver",
            str(folder),
            output,
            str(ROWS_PER_CHUNK),
            "0.02",
        ]
        self._store = store
        self._log = folder / "drivers.log"
        self._draw = random.Random(0)
        self.kills: list[str] = []

    def run(self) -> None:
        """Kill processes until there were enough kills, then let the driver end."""
        with ExitStack() as stack:
            self._new_cluster(stack)
            self._driver = self._start_driver()
            deadline = time.monotonic() + 3000
            while time.monotonic() < deadline:
                if self._driver.poll() == 0:
                    return
                if self._driver.poll() is not None:
                    self._driver = self._start_driver()
                time.sleep(self._draw.uniform(4.0, 12.0))
                if len(self.kills) < NUM_KILLS:
                    self._kill(stack)
            self._driver.kill()
        log = self._log.read_text()[-3000:]
        pytest.fail(f"not done in time; killed {self.kills}; the drivers' log ends:\n{log}")

    def environment(self) -> dict[str, str]:
        """Return the environment of a driver that uses the present cluster."""
        return {
            **os.environ,
            **self._store,
            **self._cluster.environment,
            "RAY_ADDRESS": self._cluster.address,
        }

    def _new_cluster(self, stack: ExitStack) -> None:
        self._cluster = stack.enter_context(local_cluster(num_workers=2, cpus_per_node=2))

    def _start_driver(self) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            return subprocess.Popen(self.command, env=self.environment(), stdout=log, stderr=log)

    def _kill(self, stack: ExitStack) -> None:
        """Kill an actor or the driver; every fifth time a node, which is replaced.

        Near the end kill the head, and with it all nodes.
        """
        actors = [
            process for process in psutil.process_iter(["cmdline"]) if self._is_actor(process)
        ]
        number = len(self.kills)
        planned = "head" if number == NUM_KILLS - 2 else "node" if number % 5 == 2 else None
        kind = planned or self._draw.choice(["actor", "actor", "driver"])
        if kind == "head":
            for node in self._cluster.nodes:
                node.kill()
            self._new_cluster(stack)
        elif kind == "node":
            self._cluster.nodes[-1].kill()
            self._cluster = add_node(self._cluster, cpus=2)
            stack.callback(stop_nodes, self._cluster.nodes[-1:])
        elif kind == "driver" and self._driver.poll() is None:
            self._driver.kill()
            self._driver.wait()
        elif kind == "actor" and actors:
            self._draw.choice(actors).kill()
        else:
            return
        self.kills.append(kind)

    def _is_actor(self, process: psutil.Process) -> bool:
        """Whether a process is an actor of this test's cluster, and not of another one here."""
        is_actor = bool(process.info["cmdline"]) and process.info["cmdline"][0].startswith(
            "ray::ChunkActor"
        )
        nodes = {node.pid for node in self._cluster.nodes}
        return is_actor and bool(nodes.intersection(parent.pid for parent in process.parents()))


@pytest.mark.slow
@pytest.mark.timeout(4000)
def test_backfill_in_chaos_has_the_rows_of_an_unbroken_run_each_once(
    s3: ObjectStore, tmp_path: Path
) -> None:
    make_catalogue(tmp_path, NUM_PAIRS)
    bucket, faults = s3.new_bucket(), Faults(share=0.05)
    with faulty_proxy(s3.endpoint_url, faults) as endpoint_url:
        chaos = Chaos(
            tmp_path, f"{bucket}/chaos", {**s3.environment, "AWS_ENDPOINT_URL": endpoint_url}
        )
        chaos.run()
    unbroken = [*chaos.command[:4], f"{bucket}/unbroken", str(ROWS_PER_CHUNK), "0"]
    with local_cluster(num_workers=0, cpus_per_node=4) as cluster:
        environment = {
            **os.environ,
            **s3.environment,
            **cluster.environment,
            "RAY_ADDRESS": cluster.address,
        }
        subprocess.run(unbroken, env=environment, check=True)

    assert len(chaos.kills) == NUM_KILLS, chaos.kills
    assert faults.num_failed > 0.02 * faults.num_requests
    broken, whole = (
        output_of(_config(tmp_path, f"{bucket}/{name}", s3.storage))
        for name in ("chaos", "unbroken")
    )
    rows = published_rows(broken)
    assert len(rows) == len(set(pairs_of(rows))) == NUM_PAIRS
    assert rows == published_rows(whole)
    assert published_rows(broken, failed=True) == []
    counts = {"explanations": NUM_PAIRS, "failed": 0, "rejected": 0}
    table = Table.open(broken.uri, storage=s3.storage)
    for output in (broken, whole):
        assert read_manifest(output, "explanations").row_counts == counts
    _check_versions(table)


def _check_versions(table: Table) -> None:
    """See that no version has a pair twice, and that each has as many rows as its totals say."""
    versions = [version for version, _ in table.history()]
    for version in versions[:: max(1, len(versions) // 40)]:
        rows = table.snapshot(version).dataset().to_table(columns=["user_id", "item_id"])
        _, state = read_state(table, version)
        assert rows.num_rows == (0 if state is None else state.num_rows)
        assert rows.group_by(["user_id", "item_id"]).aggregate([]).num_rows == rows.num_rows


def _config(folder: Path, output: str, storage: StorageConfig, **values: Any) -> BackfillConfig:
    return backfill_config(folder, output, storage, rows_per_chunk=ROWS_PER_CHUNK, **values)
