"""The backfill benchmark: its contestants do the same work.

Work that is deleted is done again by ours once, and by plain Ray Data twice.
"""

from pathlib import Path
from typing import Any

import pyarrow.dataset as pads
import pytest

from benchmarks.backfill_catalogue import backfill_config, make_catalogue
from benchmarks.backfill_contestants import TEXT, forget_ours, ours, plain_ray, rows_written
from xrec.backfill import read
from xrec.config.backfill import BackfillConfig
from xrec.config.shared import StorageConfig

NUM_PAIRS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogue")
    make_catalogue(folder, NUM_PAIRS)
    return folder


def _config(folder: Path, output: str) -> BackfillConfig:
    return backfill_config(folder, str(folder / output), StorageConfig(), rows_per_chunk=20)


def _rows(dataset: pads.Dataset) -> list[dict[str, Any]]:
    columns = ["user_id", "item_id", "explanation"]
    rows: list[dict[str, Any]] = dataset.to_table(columns=columns).to_pylist()
    return sorted(rows, key=lambda row: (row["user_id"], row["item_id"]))


def test_catalogue_pairs_are_distinct_ten_a_user(folder: Path) -> None:
    pairs = pads.dataset(str(folder / "pairs"), format="parquet").to_table().to_pylist()
    assert len({(pair["user_id"], pair["item_id"]) for pair in pairs}) == len(pairs) == NUM_PAIRS
    assert len({pair["pair_id"] for pair in pairs}) == NUM_PAIRS
    assert len({pair["user_id"] for pair in pairs}) == NUM_PAIRS // 10


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster", "actors_here")
def test_contestants_write_the_same_rows_and_ours_resumes_without_doubling(folder: Path) -> None:
    config, plain = _config(folder, "ours"), _config(folder, "plain")
    ours(config)
    plain_ray(plain, checkpoint=False)
    rows = _rows(read(str(folder / "ours")))
    assert rows == _rows(pads.dataset(str(folder / "plain" / "rows"), format="parquet"))
    assert len(rows) == NUM_PAIRS
    assert {row["explanation"] for row in rows} == {TEXT}
    assert forget_ours(config, 0.3) > 0
    ours(config)
    assert rows_written("ours", config) == (NUM_PAIRS, NUM_PAIRS)
    assert rows_written("ray-plain", plain) == (NUM_PAIRS, NUM_PAIRS)
