"""A whole run through Ray Data's actors: typed failures, the threshold, what stays, and what a reader gets."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from xrec.backfill import plan_backfill, read_explanations, read_pairs, run_backfill
from xrec.backfill.commit import committed_chunks
from xrec.errors import ArtifactNotFoundError, DataError, StorageNotFoundError
from xrec.schemas import FAILED
from xrec.storage import Location, Manifest, open_location, parquet_bytes, read_manifest, read_table

pytestmark = pytest.mark.usefixtures("ray_cluster")

MakeConfig = Callable[..., Any]
BROKEN = ("nobody i0", "u1 nothing", "u2 wordy", "u3 wordy")
GOOD = tuple(f"u{user} i{item}" for user in range(4) for item in range(3))


@pytest.fixture
def on_s3(make_config: MakeConfig, pairs: Callable[..., pa.Table], s3: Any) -> Callable[..., Any]:
    """A config whose pairs, some of them broken, and whose output lie on s3://."""
    bucket = s3.new_bucket()
    table = pairs(*GOOD, *BROKEN, *GOOD[:2])
    (open_location(bucket, s3.storage) / "in" / "pairs.parquet").write_bytes(parquet_bytes(table, table.schema))

    def make(**values: Any) -> Any:
        uri = {"pairs": {"kind": "table", "uri": f"{bucket}/in"}, "explanations": f"{bucket}/out"}
        return make_config(storage=s3.storage, **uri, **values)

    return make


def _run(config: Any) -> Manifest:
    return run_backfill(config, plan_backfill(config, read_pairs(config)))


def _output(config: Any) -> Location:
    return open_location(config.artifact("explanations"), config.storage)


def _failed(output: Location) -> list[dict[str, str]]:
    tables = [read_table(output / name, FAILED) for name in output.files() if name.startswith("failed/")]
    rows: list[dict[str, str]] = pa.concat_tables(tables).to_pylist()
    return rows


def test_run_over_max_failed_share_keeps_what_is_committed_and_raising_it_goes_on_from_there(on_s3: Callable[..., Any]) -> None:
    strict = on_s3(max_failed_share=0.2)
    output = _output(strict)
    with pytest.raises(DataError, match=r"rows failed .*'unknown_user': 1.*max_failed_share = 0.2") as raised:
        _run(strict)
    assert f"of {len(GOOD) + len(BROKEN)} rows" in str(raised.value)
    assert f"{output}/failed" in str(raised.value)
    with pytest.raises(ArtifactNotFoundError):
        read_manifest(output, "explanations")

    files = output.files()
    plan = plan_backfill(strict, read_pairs(strict))
    assert committed_chunks(output) == set(plan.chunk_rows)
    times = {name: output.fs.info((output / name).path)["LastModified"] for name in files}
    manifest = _run(on_s3(max_failed_share=1.0))
    assert {name: output.fs.info((output / name).path)["LastModified"] for name in files} == times
    assert output.files() == sorted([*files, "manifest.json"])

    failed = _failed(output)
    reasons = {f"{row['user_id']} {row['item_id']}": row["reason"] for row in failed}
    assert {pair: reasons[pair] for pair in BROKEN} == dict(
        zip(BROKEN, ("unknown_user", "unknown_item", "prompt_too_long", "prompt_too_long"), strict=True)
    )
    assert manifest.metrics["failed_by_reason"] == dict(Counter(row["reason"] for row in failed))
    explained = read_explanations(output)
    assert manifest.row_counts == {"explanations": explained.num_rows, "failed": len(failed)}
    everything = [*explained.to_pylist(), *failed]
    assert sorted(f"{row['user_id']} {row['item_id']}" for row in everything) == sorted({*GOOD, *BROKEN})

    # A late attempt's file, that no commit names, is not read.
    stray = explained.set_column(2, explained.schema.field("explanation"), pc.utf8_upper(explained["explanation"]))
    (output / "part-00000-deadbeef.parquet").write_bytes(parquet_bytes(stray, explained.schema))
    assert explained.num_rows
    assert read_explanations(output).equals(explained)


def test_read_explanations_of_an_unfinished_run_is_refused(on_s3: Callable[..., Any]) -> None:
    config = on_s3()
    plan_backfill(config, read_pairs(config))
    with pytest.raises(ArtifactNotFoundError, match=r"out: no explanations artifact"):
        read_explanations(_output(config))


def test_run_error_in_an_actor_is_ours_with_its_message(on_s3: Callable[..., Any]) -> None:
    """The plan's chunk files are gone: every attempt fails, and the message says which file."""
    config = on_s3(num_chunks=1, actors={"num_actors": 1, "device": "cpu"})
    plan = plan_backfill(config, read_pairs(config))
    output = _output(config)
    (output / "plan").delete()
    with pytest.raises(StorageNotFoundError) as raised:
        run_backfill(config, plan)
    assert str(raised.value).startswith(f"{output}/plan/chunk-00000.parquet: not found")
    assert "Traceback" not in str(raised.value)
    assert output.files() == ["plan.json"]
