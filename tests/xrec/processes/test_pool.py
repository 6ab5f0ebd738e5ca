"""One call per item in processes on Ray, and how their errors arrive."""

import os
import time

import pytest

from tests.errors import raises
from xrec.errors import ClusterError, UnknownIdError
from xrec.processes import map_in_processes, portable


def test_error_of_a_process_arrives_as_it_is_or_as_a_cluster_error_with_its_traceback():
    own = portable(UnknownIdError("no user x", "user"))
    assert (str(own), own.reason) == ("no user x", "unknown_user")
    try:
        {}["its cause"]
    except KeyError as cause:
        error = portable(cause)
    assert (error.code, error.key) == ("processes_failed", "KeyError")
    assert '{}["its cause"]' in error.__notes__[0]


@pytest.mark.usefixtures("ray_cluster")
def test_map_in_processes_yields_each_item_as_soon_as_it_is_done(tmp_path):
    def last_of_four(name: str) -> int:
        while name == "last" and not (tmp_path / "others_are_here").exists():
            time.sleep(0.01)
        return os.getpid()

    assert list(map_in_processes(lambda: last_of_four, [], num_processes=2)) == []
    items = ["last", "a", "b", "c"]
    found = []
    for index, pid in map_in_processes(lambda: last_of_four, items, num_processes=2):
        found.append((index, pid))
        if len(found) == 3:
            (tmp_path / "others_are_here").touch()
    assert [index for index, _ in found] == [1, 2, 3, 0]
    assert len({pid for _, pid in found} - {os.getpid()}) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_map_in_processes_retries_an_item_after_one_death(tmp_path):
    def die(num_times: int) -> int:
        with (tmp_path / str(num_times)).open("a") as file:
            file.write("x")
        if (tmp_path / str(num_times)).stat().st_size <= num_times:
            os._exit(1)
        return num_times

    found = map_in_processes(lambda: die, [1, 99], num_processes=1)
    assert next(found) == (0, 1)
    with raises(ClusterError, "processes_died"):
        next(found)
    assert (tmp_path / "1").read_text() == (tmp_path / "99").read_text() == "xx"
