"""The manifest follows the table's log: whatever died or slept, it is mended by the next driver."""

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.xrec.backfill.runs import output_of, pairs_of, plan, published_rows, rows_at, run
from tests.xrec.backfill.toy_engines import Toy
from xrec.backfill import has_work, publish_explanations, read
from xrec.bulk import BulkRun
from xrec.bulk.publish import finished_version, release_older
from xrec.storage import Location, Manifest, read_manifest

pytestmark = pytest.mark.usefixtures("actors_here")

MakeConfig = Callable[..., Any]
MakePairs = Callable[..., pa.Table]
PAIRS_OF_USERS = tuple(f"u{user} i{item}" for user in range(12) for item in range(4))


@pytest.fixture
def toy(muted: Path) -> Toy:
    return Toy(mute=PAIRS_OF_USERS[:5], muted=str(muted))


def pins_of(run: BulkRun) -> list[str]:
    return sorted((run.plan.output / "_xrec" / "pins").files())


def test_publish_pins_the_version_that_the_manifest_names(
    make_config: MakeConfig, pairs: MakePairs, toy: Toy
) -> None:
    config = make_config()
    assert publish_explanations(plan(config, pairs(*PAIRS_OF_USERS))) is None
    manifest = run(config, pairs(*PAIRS_OF_USERS), load=toy)
    made = plan(config, pairs(*PAIRS_OF_USERS))
    assert manifest.version == made.table.newest_version()
    assert pins_of(made) == [f"published-{manifest.version}.json"]
    assert manifest.fingerprint != manifest.run == made.plan.run


@pytest.mark.parametrize("damage", ["missing", "older"])
def test_publish_mends_a_manifest_that_is_missing_or_older_than_the_newest_finish(
    make_config: MakeConfig, pairs: MakePairs, toy: Toy, muted: Path, damage: str
) -> None:
    """A driver died before it wrote the manifest, or one that slept wrote an old one."""
    config = make_config()
    run(config, pairs(*PAIRS_OF_USERS), load=toy)
    file = output_of(config) / "manifest.json"
    old = file.read_bytes()
    muted.unlink()
    whole = run(make_config(retry_failed="all"), pairs(*PAIRS_OF_USERS), load=toy)
    assert whole.row_counts["explanations"] == len(PAIRS_OF_USERS)
    if damage == "missing":
        file.delete()
    else:
        file.write_bytes(old)
    assert not has_work(config, plan(config, pairs(*PAIRS_OF_USERS)))
    mended = run(config, pairs(*PAIRS_OF_USERS), load=toy)
    same = {"created_at": ""}
    assert mended.model_copy(update=same) == whole.model_copy(update=same)
    assert pairs_of(published_rows(output_of(config))) == sorted(PAIRS_OF_USERS)


def test_publish_of_a_driver_that_slept_before_its_manifest_leaves_the_newer_one(
    make_config: MakeConfig,
    pairs: MakePairs,
    toy: Toy,
    muted: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It sleeps right before it writes the manifest, while another driver ends a retry."""
    config = make_config()
    module = sys.modules["xrec.bulk.publish"]
    written = module.write_manifest
    slept: list[dict[str, Any]] = []

    def sleep_before(*arguments: Any, **fields: Any) -> Manifest:
        if not slept:
            slept.append(fields)
            muted.unlink()
            run(make_config(retry_failed="all"), pairs(*PAIRS_OF_USERS), load=toy)
        return written(*arguments, **fields)

    monkeypatch.setattr(module, "write_manifest", sleep_before)
    manifest = run(config, pairs(*PAIRS_OF_USERS), load=toy)
    assert slept[0]["row_counts"]["failed"] == 5
    assert manifest.row_counts["failed"] == 0
    assert read_manifest(output_of(config), "explanations") == manifest


def test_publish_leaves_the_manifest_while_a_retry_is_under_way(
    make_config: MakeConfig, pairs: MakePairs, toy: Toy
) -> None:
    config = make_config()
    first = run(config, pairs(*PAIRS_OF_USERS), load=toy)
    before = published_rows(output_of(config))

    class Stop(BaseException):
        pass

    class Stopping(Toy):
        def __call__(self, made: Any) -> Any:
            raise Stop

    with pytest.raises(Stop):
        run(make_config(retry_failed="all"), pairs(*PAIRS_OF_USERS), load=Stopping())
    made = plan(config, pairs(*PAIRS_OF_USERS))
    finished = finished_version(made)
    assert finished is not None
    assert finished[0] == first.version
    assert publish_explanations(made) == first
    assert published_rows(output_of(config)) == before


def test_compaction_is_published_and_a_reader_of_the_version_before_goes_on(
    make_config: MakeConfig, pairs: MakePairs, toy: Toy, muted: Path
) -> None:
    config = make_config(rows_per_chunk=4)
    first = run(config, pairs(*PAIRS_OF_USERS), load=toy)
    output = output_of(config)
    before, failed = published_rows(output), published_rows(output, failed=True)
    reader = read(output.uri)
    compacting = make_config(rows_per_chunk=4, upkeep={"compact": True})
    second = run(compacting, pairs(*PAIRS_OF_USERS), load=toy)
    assert second.version is not None
    assert first.version is not None
    assert second.version > first.version
    assert second.fingerprint == first.fingerprint
    assert second.row_counts == first.row_counts
    assert published_rows(output) == before
    assert published_rows(output, failed=True) == failed
    assert reader.to_table().num_rows == len(before)
    table = plan(config, pairs(*PAIRS_OF_USERS)).table
    assert table.snapshot(second.version).files().num_rows == 2  # one a status
    assert table.snapshot(first.version).files().num_rows > 10

    muted.unlink()
    again = make_config(rows_per_chunk=4, retry_failed="all", upkeep={"compact": True})
    third = run(again, pairs(*PAIRS_OF_USERS), load=toy)
    assert third.row_counts == {"explanations": len(PAIRS_OF_USERS), "failed": 0, "rejected": 0}
    assert pairs_of(published_rows(output)) == sorted(PAIRS_OF_USERS)
    assert table.snapshot(third.version).files().num_rows == 1
    assert rows_at(output, first.version) == before


def test_vacuum_spares_what_was_published_until_the_retention_is_over(
    make_config: MakeConfig, pairs: MakePairs, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(upkeep={"compact": True, "vacuum": True, "retention_hours": 1})
    given = pairs(*PAIRS_OF_USERS)
    run(make_config(), given, load=toy)
    first = plan(config, given).table.newest_version()
    manifest = run(config, given, load=toy)
    made = plan(config, given)
    both = [f"published-{first}.json", f"published-{manifest.version}.json"]
    assert pins_of(made) == sorted(both)
    _make_older(made, manifest.version, timedelta(hours=2))
    release_older(made, manifest, timedelta(hours=1))
    assert pins_of(made) == [f"published-{manifest.version}.json"]
    assert publish_explanations(made) == manifest  # a vacuum is no version of its own


def test_each_version_is_spared_from_the_time_when_another_followed_it(
    make_config: MakeConfig, pairs: MakePairs, toy: Toy
) -> None:
    """However often something is published: there is always a new version."""
    run(make_config(), pairs(*PAIRS_OF_USERS), load=toy)
    made = plan(make_config(), pairs(*PAIRS_OF_USERS))
    manifest = publish_explanations(made)
    assert manifest is not None
    assert manifest.version is not None
    made.table.unpin(f"published-{manifest.version}")
    for version in range(manifest.version + 1):
        made.table.pin(f"published-{version}", version)
        _make_older(made, version, timedelta(hours=manifest.version - version))
    release_older(made, manifest, timedelta(hours=2, minutes=1))
    kept = [f"published-{manifest.version - back}.json" for back in range(4)]
    assert pins_of(made) == sorted(kept)


def _make_older(run: BulkRun, version: int | None, by: timedelta) -> None:
    """Let the version have been published earlier."""
    pin = run.plan.output / "_xrec" / "pins" / f"published-{version}.json"
    moment = (datetime.now(UTC) - by).timestamp()
    os.utime(pin.path, (moment, moment))


def test_compaction_of_a_run_that_is_compact_writes_nothing(
    make_config: MakeConfig, pairs: MakePairs, toy: Toy
) -> None:
    config = make_config(upkeep={"compact": True})
    manifest = run(config, pairs(*PAIRS_OF_USERS), load=toy)
    times = _times(output_of(config))
    assert run(config, pairs(*PAIRS_OF_USERS), load=toy) == manifest
    assert _times(output_of(config)) == times


def _times(output: Location) -> dict[str, Any]:
    return {name: (output / name).modified_at() for name in output.files()}
