"""Items in processes of Ray Data: each comes back once, whatever a process does."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from xrec.bulk.pool import map_in_processes
from xrec.errors import ClusterError, DataError

pytestmark = pytest.mark.usefixtures("ray_cluster")


def _pid_of(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def _make_pid() -> Callable[[float], int]:
    return _pid_of


def test_map_in_processes_gives_each_item_back_as_soon_as_it_is_done() -> None:
    seconds = [4.0, 0.1, 0.1, 0.1]
    found = list(map_in_processes(_make_pid, seconds, num_processes=2))
    assert sorted(place for place, _ in found) == [0, 1, 2, 3]
    assert found[-1][0] == 0
    assert len({pid for _, pid in found}) == 2
    assert os.getpid() not in dict(found).values()


def test_map_in_processes_that_are_fresh_do_one_item_each() -> None:
    found = list(map_in_processes(_make_pid, [0.0] * 3, num_processes=2, fresh=True))
    assert len({pid for _, pid in found}) == 3


@pytest.mark.parametrize("fresh", [False, True])
def test_map_in_processes_raises_the_error_of_a_process(fresh: bool) -> None:
    def refuse(item: str) -> str:
        raise DataError(f"{item} is wrong")

    with pytest.raises(DataError, match=r"^the item is wrong$"):
        list(map_in_processes(lambda: refuse, ["the item"], num_processes=1, fresh=fresh))


@pytest.mark.parametrize("fresh", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_map_in_processes_begins_an_item_again_once_if_its_process_died(
    tmp_path: Path, fresh: bool
) -> None:
    def die(num_times: int) -> int:
        with (tmp_path / str(num_times)).open("a") as file:
            file.write("x")
        if (tmp_path / str(num_times)).stat().st_size <= num_times:
            os._exit(1)
        return num_times

    assert list(map_in_processes(lambda: die, [1], num_processes=1, fresh=fresh)) == [(0, 1)]
    with pytest.raises(ClusterError, match="two processes died with the same work"):
        list(map_in_processes(lambda: die, [99], num_processes=1, fresh=fresh))
    assert (tmp_path / "99").stat().st_size == 2


@pytest.mark.slow
def test_map_in_processes_that_die_while_they_load_is_an_error() -> None:
    with pytest.raises(ClusterError, match="ended before they were ready"):
        list(map_in_processes(lambda: os._exit(1), [1], num_processes=1))
