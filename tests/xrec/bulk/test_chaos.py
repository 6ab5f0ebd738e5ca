"""Random kills and commands on one table: each version has each row of one run once.

Then a driver on Ray that is stopped or loses its cluster, and a pool that gains and loses nodes.
"""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from tests.seeds import SEED
from tests.world.cluster import LocalCluster, add_node, local_cluster, running, stop_nodes
from tests.world.here import Place
from tests.world.program import wait_until
from tests.xrec.bulk.chaos import (
    FORMAT,
    INTERRUPTED,
    ITEMS,
    REFUSED,
    WORKER,
    Chaos,
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
    began = time.monotonic()
    print(f"seed {seed}")  # noqa: T201
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
    print(  # noqa: T201
        f"{time.monotonic() - began:.0f} s; {dict(chaos.blows)}; refused: {dict(chaos.refusals)}; "
        f"{reader.num_versions} versions read"
    )


@pytest.fixture
def bucket_place(s3):
    return Place(f"{s3.new_bucket()}/chaos", s3.storage)


def test_commands_in_chaos_leave_a_row_once_at_each_version(bucket_place, tmp_path):
    setting = Setting(bucket_place, tmp_path, 60, rows_per_chunk=40, seconds_per_chunk=0.05)
    run_in_chaos(setting, 5, 8, (0.1, 0.4))


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


@pytest.fixture
def disk_on_ray(tmp_path):
    """A setting of 2,000 rows in 100 chunks of half a second, or so many, on a disk."""
    place = Place(str(tmp_path / "out"), StorageConfig())
    return lambda ray, pace=0.5: Setting(place, tmp_path, 400, 20, pace, ray.address, max_actors=6)


def num_done(toy: Toy) -> int:
    return len(Survey(toy.run).tallies[0].done)


@pytest.mark.slow
def test_driver_that_is_stopped_or_loses_ray_ends_soon(disk_on_ray):
    done = 0
    with local_cluster(num_workers=1, cpus_per_node=2) as cluster:
        setting = disk_on_ray(cluster, pace=2)  # it is not to end by doing all
        toy = setting.open("main")
        with closing(Chaos(setting, 0, cluster)) as chaos:
            for number in (signal.SIGTERM, signal.SIGINT, None):
                command = chaos.start("complete")
                wait_until(lambda least=done + 5: num_done(toy) >= least)
                if number is not None:
                    command.send(number)
                else:
                    for node in cluster.nodes:
                        node.kill()
                wait_until(lambda command=command: command.process.exitcode is not None)
                progress = read_progress(toy.run.folder)
                assert progress.expires_at is None
                assert progress.num_rows > 20 * done
                done = num_done(toy)
                assert done < 100
                assert command.process.exitcode == (INTERRUPTED if number else REFUSED)
                assert number or "\nray_ended " in chaos.log(command)
    with local_cluster(num_workers=0, cpus_per_node=4) as cluster:
        setting = disk_on_ray(cluster)
        with closing(Chaos(setting, 0, cluster)) as chaos:
            last = chaos.start("complete")
            wait_until(lambda: last.process.exitcode is not None)
            assert last.process.exitcode == 0, chaos.log(last)
            assert f"{100 - done} of 100 chunks left" in chaos.log(last)
    assert rows_of(toy.published(), keys=FORMAT.keys) == toy.rows


@pytest.mark.slow
def test_pool_grows_onto_a_new_node_and_a_lost_one_fails_no_row(disk_on_ray):
    with local_cluster(num_workers=1, cpus_per_node=1) as cluster:
        setting = disk_on_ray(cluster, pace=5)  # a node may take a minute to be there
        toy = setting.open("main")
        toy.heal()
        with closing(Chaos(setting, 0, cluster)) as chaos:
            driver = chaos.start("complete")
            wait_until(lambda: num_done(toy) >= 4)
            cluster = add_node(cluster, cpus=2)
            try:
                wait_until(lambda: bool(running(cluster.nodes[2].processes(), WORKER)))
                assert driver.process.exitcode is None
                assert running(cluster.nodes[1].processes(), WORKER)
                cluster.nodes[1].kill()
                assert num_done(toy) < 80
                wait_until(lambda: driver.process.exitcode is not None, 400)
                assert driver.process.exitcode == 0, chaos.log(driver)
            finally:
                stop_nodes(cluster.nodes[2:])
    table = toy.published()
    assert rows_of(table, keys=FORMAT.keys) == toy.rows
    assert table.manifest.row_counts == {"explanations": len(toy.rows), "failed": 0}
