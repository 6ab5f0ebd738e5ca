"""The backfill benchmark: its catalogue, and what it says of an engine's steps."""

import pyarrow.dataset as pads
import pytest

from benchmarks.backfill import _of_steps
from benchmarks.backfill_catalogue import backfill_config, make_catalogue
from benchmarks.backfill_run import NotingLoad
from tests.xrec.bulk.toy_run import pool_here
from xrec.backfill import read, read_failed
from xrec.backfill.driver import run_backfill
from xrec.backfill.plan import open_backfill
from xrec.config.shared import StorageConfig

NUM_PAIRS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalogue")
    make_catalogue(folder, NUM_PAIRS)
    return folder


def test_catalogue_pairs_are_distinct_ten_a_user(folder):
    pairs = pads.dataset(str(folder / "pairs"), format="parquet").to_table().to_pylist()
    assert len({(pair["user_id"], pair["item_id"]) for pair in pairs}) == len(pairs) == NUM_PAIRS
    assert len({pair["user_id"] for pair in pairs}) == NUM_PAIRS // 10


@pytest.mark.parametrize("is_empty", [True, False])
def test_backfill_with_notes_explains_all_pairs(folder, tmp_path, monkeypatch, is_empty):
    monkeypatch.setattr("xrec.backfill.driver.RayPool", pool_here)
    values = {"rows_per_chunk": 20, "decoding": {"max_new_tokens": 5}, "max_failed_share": 1.0}
    config = backfill_config(folder, str(tmp_path / "out"), StorageConfig(), **values)
    notes = tmp_path / "notes"
    notes.mkdir()
    run_backfill(config, open_backfill(config), NotingLoad(str(notes), is_empty))
    uri = config.artifact("explanations")
    assert read(uri).count_rows() + read_failed(uri).count_rows() == NUM_PAIRS
    assert len(list(notes.iterdir())) == (0 if is_empty else 1)


def test_steps_say_rows_at_work_and_the_time_without_a_step():
    steps = [[0.0, 1.0, 4, 10.0], [1.0, 2.0, 4, 11.0], [3.0, 4.0, 1, 12.0]]
    found = _of_steps([steps, []])
    assert (found["rows_at_work"], found["full"], found["idle"]) == (3, 2 / 3, 0.25)
    assert (found["steps"], found["engine_cpu"]) == (3, 2.0)
    assert _of_steps([[]]) == {}
