"""Job `train-ranker` on the pipeline's town, and a backfill that takes the best of its texts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import jobs.backfill
import jobs.train_ranker
from xrec.backfill import read
from xrec.config.backfill import BackfillConfig
from xrec.config.base import parse_config
from xrec.config.ranker import TrainRankerConfig
from xrec.errors import DataError
from xrec.generate.candidates import read_ranker
from xrec.storage import location_of

RULES = {"max_words": None, "max_phrase_repeats": None, "max_echo_tokens": None}
DECODING = {"max_new_tokens": 8, "text": RULES}


@pytest.fixture
def make_config(pipeline: Any, tmp_path: Path) -> Callable[..., TrainRankerConfig]:
    def make(**training: Any) -> TrainRankerConfig:
        values = {
            "workspace": pipeline.workspace,
            "storage": pipeline.storage,
            "ranker": str(tmp_path / "ranker"),
            "llm": {"model": f"{pipeline.workspace}/llm", "cache_dir": pipeline.cache_dir},
            "decoding": DECODING,
            "device": "cpu",
        }
        return parse_config(TrainRankerConfig, {**values, "training": training})

    return make


def test_train_ranker_then_backfill_writes_the_best_of_several_texts(
    pipeline: Any, make_config: Callable[..., TrainRankerConfig], tmp_path: Path
) -> None:
    config = make_config(max_pairs=10, num_candidates=3, num_folds=2)
    manifest = jobs.train_ranker.run(config)
    assert manifest.metrics["best"] >= manifest.metrics["chosen"]
    assert jobs.train_ranker.run(config) == manifest
    assert len(read_ranker(location_of(config, "ranker")).weights) == 7
    assert jobs.train_ranker.output(config).found().state == "same"
    multiplying = config.engine.model_copy(update={"linear_layers": "int8"})
    other = jobs.train_ranker.output(config.model_copy(update={"engine": multiplying})).found()
    assert other.state == "differs"
    assert "int8" in str(other.differences)

    backfill = pipeline.config(
        BackfillConfig,
        explanations=str(tmp_path / "best"),
        ranker=str(tmp_path / "ranker"),
        decoding={**DECODING, "num_candidates": 3, "temperature": 0.7},
    )
    written = jobs.backfill.run(backfill)
    assert written.inputs["ranker"] == manifest.fingerprint
    assert read(str(tmp_path / "best")).count_rows() == written.row_counts["explanations"] > 0


def test_train_ranker_with_too_few_texts_to_rank_says_what_to_do(
    make_config: Callable[..., TrainRankerConfig],
) -> None:
    with pytest.raises(DataError, match="draw more pairs"):
        jobs.train_ranker.run(make_config(max_pairs=10, num_folds=1000))
