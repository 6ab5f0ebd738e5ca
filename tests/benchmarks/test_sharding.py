"""The memory benchmark: its counts, the process's memory, and a small model on two workers."""

import time
from pathlib import Path

import pytest

from benchmarks.sharding import config_of, measure, peak_memory, row_of, settled_bytes
from tests.toy import save_toy_model
from xrec.storage import open_location
from xrec.train.ray_driver import fit


def test_row_of_shares_are_of_the_models_part() -> None:
    seen = {
        "model": 400e6,
        "held": 110e6,
        "RSS": 90e6,
        "peak of loading": 1e6,
        "with the file": 2e6,
        "training": 3e6,
    }
    row = row_of(4, seen)
    assert (row["model/W"], row["held"], row["held: share"], row["RSS: share"]) == (
        100.0,
        110.0,
        1.1,
        0.9,
    )


def test_peak_memory_sees_what_was_freed_again() -> None:
    before = settled_bytes()
    with peak_memory() as peak:
        block = bytearray(b"x") * (64 << 20)
        time.sleep(0.5)  # the watching thread needs a turn, however busy the machine is
        del block
    assert peak.private - before > 50 << 20
    assert settled_bytes() - before < 20 << 20


@pytest.mark.slow
def test_measure_two_workers_hold_half_the_weights_each(ray_cluster: None, tmp_path: Path) -> None:
    config = config_of(str(save_toy_model(tmp_path / "llm")), 2, "float32")
    storage = open_location(str(tmp_path / "run"))
    given = {"config": config, "live": 0}
    seen = fit(measure, given, scaling=config.scaling, storage=storage, name="run").metrics
    weights = (tmp_path / "llm" / "model.safetensors").stat().st_size
    assert seen["model"] == pytest.approx(weights, rel=0.05)  # the rest of the file is its header
    assert seen["held"] == pytest.approx(seen["model"] / 2, rel=0.01)
    assert seen["training"] > 0
