"""The job `backfill` on s3://: its rows, runs that were begun, and dry runs."""

import json
from functools import partial

import pyarrow as pa
import pytest
import yaml

import jobs.backfill
from tests.jobs.conftest import DECODING
from tests.world.program import said, xrec
from xrec.backfill import read_explanations, read_failed
from xrec.bulk import read_status
from xrec.config.backfill import BackfillConfig
from xrec.data import read_dataset
from xrec.storage import parquet_bytes, read_manifest


def test_backfill_explains_each_held_out_pair_once(pipeline):
    location = pipeline.location("explanations")
    manifest = read_manifest(location, "explanations")
    dataset = read_dataset(pipeline.location("dataset"))
    users, items = dataset.users["user_id"].to_pylist(), dataset.items["item_id"].to_pylist()
    expected = sorted(
        (users[row["user_index"]], items[row["item_index"]])
        for row in dataset.explained_pairs("test").to_pylist()
    )
    explained = read_explanations(location.uri, pipeline.storage)
    failed = read_failed(location.uri, storage=pipeline.storage).to_table()
    rows = [*explained.to_pylist(), *failed.to_pylist()]
    assert sorted((row["user_id"], row["item_id"]) for row in rows) == expected
    counts = {"explanations": explained.num_rows, "failed": failed.num_rows, "rejected": 0}
    assert manifest.row_counts == counts
    assert explained.num_rows > len(expected) / 2
    assert all(explained["explanation"].to_pylist())
    assert set(explained["finish_reason"].to_pylist()) <= {"stop", "length"}
    assert max(explained["num_generated_tokens"].to_pylist()) <= 8
    assert len(set(explained["model_fingerprint"].to_pylist())) == 1


@pytest.mark.usefixtures("without_work")
@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"decoding": {**DECODING, "max_new_tokens": 9}}, "decoding.max_new_tokens: 8 there, 9"),
        ({"pairs": {"kind": "split", "split": "validation"}}, "pairs.split: 'test' there"),
        ({"rows_per_chunk": 4, "carry_from": None}, ""),
    ],
)
def test_backfill_output_says_in_what_the_published_run_differs(pipeline, values, field):
    for exact in (False, True):
        found = jobs.backfill.output(pipeline.config(BackfillConfig, **values), exact=exact).found()
        assert found.state == ("stale" if field else "up to date")
        assert [each[: len(field)] for each in found.differences] == [field] * bool(field)


@pytest.mark.usefixtures("actors_here")
def test_backfill_second_driver_is_refused(pipeline, config_file):
    config = pipeline.config(BackfillConfig, explanations=f"{pipeline.workspace}/held", limit=1)
    jobs.backfill.run(config)
    (file,) = [name for name in pipeline.location("held").files() if name.endswith("driver.json")]
    sign = pipeline.location("held") / file
    said = json.loads(sign.read_text())
    alive = {"holder": "another host, process 1", "expires_at": "2999-01-01T00:00:00Z"}
    sign.write_bytes(json.dumps(said | alive).encode())
    code, _, err = xrec("backfill", config_file(config))
    assert (code, "works on this run, and is taken for alive until" in err) == (1, True)


@pytest.mark.usefixtures("actors_here")
def test_backfill_dry_run_canary_and_whole_run_tell_of_each_other(pipeline, config_file):
    """A dry run before, a canary, a dry run by its rate, and the rest."""
    uri = f"{pipeline.workspace}/begun-small"
    path = config_file(pipeline.config(BackfillConfig, explanations=uri))
    made = pipeline.manifests["explanations"]
    num_pairs = made.row_counts["explanations"] + made.row_counts["failed"]

    backfill = partial(said, "backfill", path)
    out = backfill("--dry-run")
    assert f"\n# {num_pairs} pairs in {made.metrics['num_chunks']} chunks\n" in out
    assert "\n# what they cost is not known" in out
    assert yaml.safe_load(out)["limit"] is None
    assert not pipeline.location("begun-small").exists()

    out = backfill("limit=9")
    assert out.startswith("the limit of 9 rows is reached; ")
    status = read_status(uri, pipeline.storage)
    assert status.num_done == 9 < num_pairs
    assert f"left: {status.num_left}\n" in out

    before = pipeline.state("begun-small")
    assert "\n# to come: about " in backfill("--dry-run")
    assert pipeline.state("begun-small") == before
    assert backfill("limit=9").startswith("the limit of 9 rows is reached")
    assert read_status(uri, pipeline.storage).num_done == status.num_done

    assert backfill().startswith(f"explanations: {uri}\n  rows: ")


@pytest.mark.usefixtures("without_work")
def test_backfill_dry_run_takes_an_earlier_rate_or_says_what_is_missing(pipeline, config_file):
    pairs = {"kind": "split", "split": "validation"}
    path = config_file(pipeline.config(BackfillConfig, pairs=pairs))
    out = said("backfill", path, "--dry-run")
    assert f" pairs done at {pipeline.workspace}/explanations; less if some " in out
    assert yaml.safe_load(out)["pairs"]["split"] == "validation"
    out = said("backfill", path, "--dry-run", f"adapter={pipeline.workspace}/none")
    assert "\n# what the run would do cannot be said yet: " in out
    assert f"{pipeline.workspace}/none" in out.splitlines()[-1]


@pytest.mark.usefixtures("actors_here")
def test_backfill_of_pairs_that_were_written_again_is_compared_by_their_rows(pipeline):
    file = pipeline.location("again.parquet")
    pairs = pa.table({"user_id": ["u0", "u1"], "item_id": ["p0", "p1"]})
    config = pipeline.config(
        BackfillConfig,
        pairs={"kind": "table", "uri": file.uri},
        explanations=f"{pipeline.workspace}/of-a-table",
        max_failed_share=1.0,
    )

    def found(exact: bool) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        made = jobs.backfill.output(config, exact=exact)
        return made.found().state, made.found().differences, made.unchecked

    file.write_bytes(parquet_bytes(pairs, pairs.schema))
    jobs.backfill.run(config)
    assert found(exact=True) == found(exact=False) == ("up to date", (), ())
    file.write_bytes(parquet_bytes(pairs.take([1, 0]), pairs.schema))
    assert found(exact=False) == ("up to date", (), ("pairs",))
    assert found(exact=True) == ("up to date", (), ())
    file.write_bytes(parquet_bytes(pairs.slice(0, 1), pairs.schema))
    assert found(exact=False) == ("up to date", (), ("pairs",))
    assert found(exact=True) == ("stale", ("pairs: others there than here",), ())
