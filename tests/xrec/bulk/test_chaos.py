"""Random kills and commands on one table: each version has each row of one run once.

Then a driver on Ray that is stopped or loses its cluster, and a pool that gains and loses nodes.
"""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest

from tests.seeds import SEED
from tests.world.cluster import LocalCluster, add_node, local_cluster, running
from tests.world.here import Place
from tests.world.program import wait_until
from tests.xrec.bulk.chaos import (
    FORMAT,
    INTERRUPTED,
    ITEMS,
    REFUSED,
    WORKER,
    Chaos,
    Command,
    Reader,
    Setting,
    check_end,
    check_garbage,
)
from tests.xrec.bulk.toy_run import Toy, rows_of
from xrec.bulk import Survey
from xrec.bulk.progress import read_progress
from xrec.config import StorageConfig

PAIRS = int(os.environ.get("XREC_CHAOS_PAIRS", "50000"))


def run_in_chaos(
    setting: Setting,
    seed: int,
    num_blows: int,
    seconds: tuple[float, float],
    cluster: LocalCluster | None = None,
) -> None:
    with closing(Chaos(setting, seed, cluster)) as chaos, ThreadPoolExecutor(1) as thread:
        reader = Reader(chaos)
        reading = thread.submit(reader.read_on)
        try:
            chaos.strike(num_blows, seconds)
            chaos.end(900)
        finally:
            reader.is_ended.set()
        reading.result()
        reader.look_at_all()
    check_end(chaos)
    check_garbage(chaos)


@pytest.fixture
def bucket_place(s3):
    return Place(f"{s3.new_bucket()}/chaos", s3.storage)


def test_commands_in_chaos_leave_a_row_once_at_each_version(bucket_place, tmp_path):
    setting = Setting(bucket_place, tmp_path, 60, rows_per_chunk=40, seconds_per_chunk=0.05)
    run_in_chaos(setting, 12, 6, (0.1, 0.4))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_50000_pairs_in_chaos_are_there_once(bucket_place, tmp_path):
    setting = Setting(bucket_place, tmp_path, PAIRS // len(ITEMS), 500, 0.1)
    run_in_chaos(setting, SEED, 48, (0.5, 3.0))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_50000_pairs_in_chaos_on_three_nodes_are_there_once(bucket_place, tmp_path):
    with local_cluster(num_workers=2, cpus_per_node=2) as cluster:
        setting = Setting(bucket_place, tmp_path, PAIRS // len(ITEMS), 1000, 0.5, cluster.address)
        run_in_chaos(setting, SEED, 36, (3.0, 9.0), cluster)


def num_done(toy: Toy) -> int:
    return len(Survey(toy.run).tallies[0].done)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_driver_on_ray_uses_new_nodes_survives_lost_ones_and_ends_if_stopped_or_without_ray(
    tmp_path,
):
    place = Place(str(tmp_path / "out"), StorageConfig())
    with local_cluster(num_workers=1, cpus_per_node=1) as cluster:
        # 100 chunks, which take so long because a node may take a minute to join.
        setting = Setting(place, tmp_path, 400, 20, 8.0, cluster.address, max_actors=6)
        toy = setting.open("main")
        toy.heal()
        with closing(Chaos(setting, 0, cluster)) as chaos:
            driver = chaos.start("complete")
            wait_until(lambda: num_done(toy) >= 4)
            cluster = add_node(cluster, cpus=2)
            try:
                wait_until(lambda: bool(running(cluster.nodes[2].processes(), WORKER)))
                assert running(cluster.nodes[1].processes(), WORKER)
                cluster.nodes[1].kill()
                done = num_done(toy)
                wait_until(lambda: num_done(toy) >= done + 6)
                assert driver.process.exitcode is None
                driver.send(signal.SIGINT)
                check_ended(toy, driver, INTERRUPTED)
                driver = chaos.start("complete")
                done = num_done(toy)
                wait_until(lambda: num_done(toy) >= done + 4)
                for node in cluster.nodes:
                    node.kill()
                check_ended(toy, driver, REFUSED)
                assert "\nray_ended " in chaos.log(driver)
            finally:
                cluster.nodes[2].kill()
    with local_cluster(num_workers=0, cpus_per_node=4) as cluster:
        setting = replace(setting, seconds_per_chunk=0.1, address=cluster.address)
        with closing(Chaos(setting, 0, cluster)) as chaos:
            last = chaos.start("complete")
            wait_until(lambda: last.process.exitcode is not None)
            assert last.process.exitcode == 0, chaos.log(last)
    table = toy.published()
    assert rows_of(table, keys=FORMAT.keys) == toy.rows
    assert table.manifest.row_counts == {"explanations": len(toy.rows), "failed": 0}


def check_ended(toy: Toy, driver: Command, code: int) -> None:
    """Wait until a driver ends with this code, before all is done and without its lease."""
    wait_until(lambda: driver.process.exitcode is not None)
    assert driver.process.exitcode == code
    assert read_progress(toy.run.folder).expires_at is None
    assert num_done(toy) < 100
