"""Drivers that overlap, sleep at a bad moment, or die in the middle of upkeep lose no row.

Each was once a way to lose rows. docs/bulk.md lists them, with further tests.
"""

import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.xrec.backfill.runs import output_of, pairs_of, plan, published_rows, rows_at, run
from tests.xrec.backfill.toy_engines import Toy
from tests.xrec.table.small_table import data_files, make_older
from xrec.backfill import read, run_backfill
from xrec.backfill.task import MakeExplainTask
from xrec.errors import LostTableError
from xrec.generate.explainer import Explainer
from xrec.storage import read_manifest

pytestmark = pytest.mark.usefixtures("actors_here")

MakeConfig = Callable[..., Any]
MakePairs = Callable[..., pa.Table]
ALL = tuple(f"u{user} i{item}" for user in range(12) for item in range(4))
MUTE = ALL[:5]
UPKEEP = {"compact": True, "vacuum": True, "retention_hours": 1}


class Died(BaseException):
    """Ends a driver as SIGKILL does."""


@pytest.fixture
def toy(muted: Path) -> Toy:
    return Toy(mute=MUTE, muted=str(muted))


def replaced(meanwhile: Callable[[], object]) -> Toy:
    """A toy whose driver sleeps while `meanwhile` is done; a zombie then writes its texts."""

    class Sleeping(Toy):
        def __call__(self, made: MakeExplainTask) -> Explainer:
            meanwhile()
            return super().__call__(made)

    return Sleeping(says="by the zombie")


def is_whole(config: Any, num_failed: int = 0) -> bool:
    """See that the published version has each pair once."""
    explained, failed = (published_rows(output_of(config), failed=bad) for bad in (False, True))
    assert len(failed) == num_failed
    return sorted(pairs_of(explained) + pairs_of(failed)) == sorted(ALL)


def test_fault_1_driver_that_wakes_after_another_took_over_ends_and_changes_nothing(
    make_config: MakeConfig, pairs: MakePairs, toy: Toy
) -> None:
    """It sleeps while its model loads; the other one does the whole run meanwhile."""
    config, given = make_config(), pairs(*ALL)
    other = make_config(take_over=True)

    with pytest.raises(LostTableError, match="no longer holds the table"):
        run(config, given, load=replaced(lambda: run(other, given, load=toy)))
    assert is_whole(config, num_failed=len(MUTE))
    assert not any("zombie" in row["explanation"] for row in published_rows(output_of(config)))
    made = plan(config, given)
    assert made.table.newest_version() == read_manifest(output_of(config), "explanations").version


def test_fault_2_driver_that_sleeps_before_it_ends_deletes_nothing_of_a_retry(
    make_config: MakeConfig,
    pairs: MakePairs,
    toy: Toy,
    muted: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, given = make_config(), pairs(*ALL)
    module = sys.modules["xrec.backfill.finish"]
    publish, slept = module.publish_explanations, []

    def sleep_before(run_of_it: Any) -> Any:
        if not slept:
            slept.append(True)
            muted.unlink()
            run(make_config(retry_failed="all"), given, load=toy)
        return publish(run_of_it)

    monkeypatch.setattr(module, "publish_explanations", sleep_before)
    manifest = run(config, given, load=toy)
    assert manifest.row_counts["failed"] == 0
    assert is_whole(config)
    assert run(config, given, load=toy) == manifest


def test_fault_3_driver_of_a_retry_that_wakes_after_a_compaction_commits_nothing(
    make_config: MakeConfig, pairs: MakePairs, toy: Toy, muted: Path
) -> None:
    config, given = make_config(), pairs(*ALL)
    run(config, given, load=toy)
    muted.unlink()
    other = make_config(retry_failed="all", take_over=True, upkeep=UPKEEP)

    with pytest.raises(LostTableError):
        run(
            make_config(retry_failed="all"),
            given,
            load=replaced(lambda: run(other, given, load=toy)),
        )
    assert is_whole(config)
    assert not any("zombie" in row["explanation"] for row in published_rows(output_of(config)))


def test_fault_4_compaction_that_sleeps_while_a_retry_ends_is_not_committed(
    make_config: MakeConfig,
    pairs: MakePairs,
    toy: Toy,
    muted: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, given = make_config(), pairs(*ALL)
    run(config, given, load=toy)
    module = sys.modules["xrec.table.writer"]
    write_piece, slept = module.write_piece, []

    def sleep_before(*arguments: Any) -> Any:
        if not slept:
            slept.append(True)
            muted.unlink()
            run(make_config(retry_failed="all"), given, load=toy)
        return write_piece(*arguments)

    monkeypatch.setattr(module, "write_piece", sleep_before)
    with pytest.raises(LostTableError, match="no longer holds the table"):
        run(make_config(upkeep={"compact": True}), given, load=toy)
    assert slept
    assert is_whole(config)


@pytest.mark.parametrize("death", ["before the manifest", "in mid retry"])
def test_fault_5_vacuum_after_a_death_deletes_nothing_that_the_manifest_needs(
    make_config: MakeConfig,
    pairs: MakePairs,
    toy: Toy,
    muted: Path,
    death: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All files are two days old when the vacuum comes."""
    config, given = make_config(), pairs(*ALL)
    first = run(config, given, load=toy)
    before = published_rows(output_of(config))
    muted.unlink()

    def die(*arguments: object, **fields: object) -> None:
        raise Died

    class Dying(Toy):
        def __call__(self, made: MakeExplainTask) -> Explainer:
            raise Died

    with monkeypatch.context() as patched:
        if death == "before the manifest":
            dying, load = make_config(upkeep={"compact": True}), toy
            patched.setattr(sys.modules["xrec.bulk.publish"], "write_manifest", die)
        else:
            dying, load = make_config(retry_failed="all"), Dying()
            patched.setattr("xrec.bulk.driver._Driver.leave", lambda driver: None)
        with pytest.raises(Died):
            run(dying, given, load=load)
    assert published_rows(output_of(config)) == before
    assert read_manifest(output_of(config), "explanations") == first

    output = output_of(config)
    make_older(output, timedelta(hours=48), data_files(output))
    run(make_config(upkeep=UPKEEP, take_over=True), given, load=toy)
    assert rows_at(output, first.version) == before
    assert is_whole(config, num_failed=len(MUTE))


def test_fault_6_old_manifest_over_a_newer_one_is_mended_by_the_next_start(
    make_config: MakeConfig, pairs: MakePairs, toy: Toy, muted: Path
) -> None:
    config, given = make_config(), pairs(*ALL)
    run(config, given, load=toy)
    old = (output_of(config) / "manifest.json").read_bytes()
    muted.unlink()
    run(make_config(retry_failed="all"), given, load=toy)
    (output_of(config) / "manifest.json").write_bytes(old)
    assert is_whole(config, num_failed=len(MUTE))  # an older version, but a whole one
    assert run(config, given, load=toy).row_counts["explanations"] == len(ALL)
    assert is_whole(config)


def test_fault_7_readers_get_each_row_once_after_a_compaction_and_while_a_retry_is_under_way(
    make_config: MakeConfig, pairs: MakePairs, toy: Toy, muted: Path
) -> None:
    config, given = make_config(), pairs(*ALL)
    run(make_config(upkeep={"compact": True}), given, load=toy)
    muted.unlink()
    looked = muted.with_name("looked")

    class Looking(Toy):
        def __call__(self, made: MakeExplainTask) -> Explainer:
            rows = read(output_of(config).uri).to_table().to_pylist()
            assert sorted(pairs_of(rows)) == sorted(set(ALL) - set(MUTE))
            assert is_whole(config, num_failed=len(MUTE))
            looked.touch()
            return super().__call__(made)

    again = make_config(retry_failed="all")
    run_backfill(again, plan(again, given), Looking())
    assert looked.exists()
    assert is_whole(config)
