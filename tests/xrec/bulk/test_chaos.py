"""Drivers in processes of their own are killed, stopped, woken, and started four at a time, while a
reader opens versions: each row is there once, at every version.

Beside them runs are compacted and vacuumed, and a second run carries rows over from the first while
that is retried. Commits fail, half of them after they were written; the object store fails one
request of twenty, drops connections, and loses answers. What takes hours (the age of files that may
be added and deleted, retention) takes seconds. XREC_CHAOS_PAIRS and XREC_CHAOS_KILLS set the size
of the test on three nodes: the full size is 50,000 and 30.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tests.faulty_proxy import Faults, faulty_proxy
from tests.object_store import ObjectStore
from tests.xrec.bulk.chaos import Chaos, Nodes, Reader, environment_size
from tests.xrec.bulk.chaos_driver import NOT_GOOD, Sizes, planned, shorten_times
from tests.xrec.bulk.toy_run import Toy, rows_of
from tests.xrec.table.conftest import Place
from xrec.bulk import check_output, compact, vacuum
from xrec.bulk.state import read_state

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

REASONS = ("odd", "task_error")


@pytest.fixture
def short_times() -> Iterator[None]:
    """Restore the times that `shorten_times` changes in this process."""
    from xrec.bulk import backoff, ledger
    from xrec.table import data_file, writer
    from xrec.table import vacuum as vacuum_module

    with pytest.MonkeyPatch.context() as patch:
        for module, names in (
            (ledger, ("COMMIT_SECONDS", "TERM", "_HEARTBEAT_SECONDS", "_WAITS_SECONDS")),
            (backoff, ("_WAITS_SECONDS",)),
            (writer, ("_WAITS_SECONDS", "CHECKPOINT_INTERVAL", "timedelta")),
            (data_file, ("OLDEST_ADD",)),
            (vacuum_module, ("YOUNG",)),
        ):
            for name in names:
                patch.setattr(module, name, getattr(module, name))  # restored at the end
        yield


@pytest.mark.usefixtures("short_times")
def test_runs_in_chaos_have_each_row_once_at_every_version(place: Place, tmp_path: Path) -> None:
    sizes = Sizes()
    sizes.write(tmp_path)
    shorten_times(sizes)
    with faulty(place) as faulty_place:
        main = run_in_chaos(place, faulty_place, tmp_path, num_blows=14, seconds=(0.5, 2.0))
    time.sleep(sizes.old_seconds + 7)  # until no file is young
    moment = timedelta(0)
    compact(main.run, holder="end")
    vacuum(main.run, holder="end", retention=moment, log_retention=moment)
    assert rows_of(main.snapshot(), "ok") == main.rows
    assert not [each.what for each in check_output(f"{place.uri}/main", place.storage)][1:]


@pytest.mark.usefixtures("short_times")
def test_runs_in_chaos_on_three_nodes_have_each_row_once_at_every_version(
    s3: ObjectStore, tmp_path: Path
) -> None:
    num_users = environment_size("XREC_CHAOS_PAIRS", 1000) // 5
    num_blows = environment_size("XREC_CHAOS_KILLS", 10)
    sizes = Sizes(
        num_users=num_users,
        killers=max(100, num_users // 4),
        rows_per_chunk=32 if num_users < 1000 else 64,
        seconds_per_chunk=0.5 if num_users < 1000 else 1.0,
        old_seconds=120.0,
        retention_seconds=60.0,
    )
    sizes.write(tmp_path)
    shorten_times(sizes)
    place = Place(f"{s3.new_bucket()}/chaos", s3.storage)
    with ExitStack() as stack:
        faulty_place = stack.enter_context(faulty(place))
        nodes = Nodes.start(stack)
        run_in_chaos(place, faulty_place, tmp_path, num_blows, (2.0, 6.0), nodes)


@contextmanager
def faulty(place: Place) -> Iterator[Place]:
    """The same place; an object store is reached by a proxy that fails one request of twenty."""
    if place.storage.endpoint_url is None:
        yield place
        return
    faults = Faults(share=0.05, drops=0.3, statuses=(500, 503))
    with faulty_proxy(place.storage.endpoint_url, faults) as endpoint_url:
        # The nodes do not have the variables, so the settings hold the keys.
        changes = {"endpoint_url": endpoint_url, "max_attempts": 5}
        yield Place(place.uri, place.storage.model_copy(update=changes))
    assert faults.num_failed > 0.02 * faults.num_requests


def run_in_chaos(
    place: Place,
    faulty_place: Place,
    folder: Path,
    num_blows: int,
    seconds: tuple[float, float],
    nodes: Nodes | None = None,
) -> Toy:
    """Run `main`, then retry its failed rows, while `later` carries over what it has; returns
    `main`.
    """
    toys = {"main": planned(place, folder, "main")}
    chaos = Chaos(faulty_place, folder, toys, nodes)
    with Reader(list(toys.values())) as reader, chaos:
        for _ in range(4):
            chaos.start("main", "drive")
        chaos.strike(num_blows // 2, seconds)
        chaos.end(900)
        check_first_pass(toys["main"], is_exact=nodes is None)
    assert reader.num_versions > 5
    first_pass = texts_of(toys["main"])
    toys["main"].heal()
    toys["later"] = planned(place, folder, "later")
    with Reader(list(toys.values())) as reader, chaos:
        for run, *what in (("main", "drive", *REASONS), ("later", "drive")):
            chaos.start(run, *what)
            chaos.start(run, *what)
        chaos.start("main", "upkeep")
        chaos.strike(num_blows - num_blows // 2, seconds)
        chaos.end(900)
    assert reader.num_versions > 5
    assert len(chaos.blows) >= num_blows // 2, chaos.blows
    assert {"kill", "stop"} <= set(chaos.blows), chaos.blows
    assert chaos.num_woken >= 2, chaos.blows
    check_end(toys["main"], toys["later"], first_pass)
    return toys["main"]


def check_first_pass(toy: Toy, is_exact: bool) -> None:
    """See that rows failed as they had to; killed actors may have taken more rows with them."""
    assert rows_of(toy.snapshot()) == toy.rows
    _, state = read_state(toy.run.table, toy.run.table.newest_version())
    assert state is not None
    num_killers = sum(item == "kill-2" for _, item in toy.rows)
    num_odd = sum(item == "odd-1" for _, item in toy.rows)
    assert state.state == "finished"
    assert (
        state.failed["task_error"] == num_killers
        if is_exact
        else (state.failed["task_error"] >= num_killers)
    )
    assert state.num_ok + sum(state.failed.values()) == len(toy.rows)
    assert num_odd - state.failed["odd"] <= state.failed["task_error"] - num_killers


def check_end(main: Toy, later: Toy, first_pass: dict[tuple[str, str], str]) -> None:
    """See that all rows are there, those of the first pass as they were, carried over or not."""
    for toy in (main, later):
        assert rows_of(toy.snapshot(), "ok") == rows_of(toy.snapshot()) == toy.rows
        found = check_output(toy.run.table.location.uri, toy.run.table.storage)
        assert {finding.severity for finding in found} <= {"warning", "note"}, found
    texts = texts_of(later)
    assert first_pass.items() <= texts_of(main).items()
    carried = {key: text for key, text in first_pass.items() if key[1] != NOT_GOOD}
    assert carried.items() <= texts.items()
    assert not {texts[key] for key in first_pass if key[1] == NOT_GOOD} & set(first_pass.values())


def texts_of(toy: Toy) -> dict[tuple[str, str], str]:
    """The text of each row that succeeded; each attempt makes another."""
    columns = ["user", "item", "text"]
    rows = toy.snapshot().dataset([("status", "=", "ok")]).to_table(columns=columns).to_pylist()
    return {(row["user"], row["item"]): row["text"] for row in rows}
