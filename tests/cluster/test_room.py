"""Whether a job's processes fit on the nodes, each process whole on one node."""

import logging

import pytest

from cluster import room
from cluster.room import Demand, check_room, demand_of_actors, demand_of_workers
from xrec.config.backfill import ActorsConfig
from xrec.config.shared import ScalingConfig
from xrec.errors import ClusterError


@pytest.fixture(autouse=True)
def fixed_cluster(monkeypatch):
    """A cluster that cannot grow, as on this machine."""
    monkeypatch.setattr(room, "may_grow", lambda: False)


def _workers(num_workers: int, cpus: int = 1, gpus: int = 0) -> Demand:
    return Demand(num_workers, num_workers, cpus, gpus, "scaling.num_workers")


ONE, TWO, GPU = {"CPU": 1.0}, {"CPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("nodes", "demand", "parts"),
    [
        ([ONE, ONE], _workers(2), None),
        ([{"CPU": 4.0}], _workers(2, cpus=2), None),
        ([GPU, GPU, {}], _workers(2, cpus=4, gpus=1), None),
        ([ONE, ONE], _workers(3), ["3 process", "2 fit", "scaling.num_workers"]),
        # Four CPUs in all, but on two nodes.
        ([TWO, TWO], _workers(1, cpus=4), ["of 4 CPU each", "0 fit", "2 CPU, 2 CPU"]),
        ([GPU, {"CPU": 8.0}], _workers(2, gpus=1), ["1 CPU and 1 GPU", "1 fit"]),
        ([{}], _workers(1), ["0 fit"]),
    ],
)
def test_check_room_names_what_is_asked_and_what_is_there_if_it_is_too_little(nodes, demand, parts):
    if parts is None:
        check_room(nodes, demand)
        return
    with pytest.raises(ClusterError) as raised:
        check_room(nodes, demand)
    assert all(part in str(raised.value) for part in parts), raised.value


def test_check_room_a_cluster_that_may_grow_is_waited_for(monkeypatch, caplog):
    monkeypatch.setattr(room, "may_grow", lambda: True)
    monkeypatch.setattr(logging.getLogger("xrec"), "propagate", True)
    check_room([{"CPU": 1.0}], _workers(4))
    assert "1 fit on the nodes (1 CPU): waiting for the cluster to grow" in caplog.text


def test_demands_are_those_of_the_config():
    some = ScalingConfig(num_workers=4, min_workers=2, cpus_per_worker=3)
    gpus = ScalingConfig(num_workers=4, device="cuda")
    assert demand_of_workers(some) == Demand(2, 4, 3, 0, "scaling.num_workers")
    assert demand_of_workers(gpus) == Demand(4, 4, 1, 1, "scaling.num_workers")
    actors = ActorsConfig(num_actors=6, cpus_per_actor=2)
    on_gpus = ActorsConfig(num_actors=6, device="cuda")
    assert demand_of_actors(actors, 2) == Demand(1, 6, 2, 0, "actors.num_actors")
    assert demand_of_actors(on_gpus, 2) == Demand(1, 6, 1, 2, "actors.num_actors")
