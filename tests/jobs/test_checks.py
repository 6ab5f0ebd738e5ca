"""Checks that name a list of words which is not there stop a job before it loads anything."""

from pathlib import Path

import pytest

import jobs.backfill
import jobs.compare
import jobs.evaluate
import jobs.explain
import jobs.serve
from xrec.config.backfill import BackfillConfig
from xrec.config.compare import CompareConfig
from xrec.config.evaluate import EvaluateConfig
from xrec.config.project import load_config
from xrec.config.serve import ServeConfig
from xrec.errors import DataError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("job", "config_type", "more"),
    [
        (jobs.backfill.run, BackfillConfig, ()),
        (jobs.explain.run, BackfillConfig, ("u", "i")),
        (jobs.evaluate.run, EvaluateConfig, ()),
        (jobs.compare.run, CompareConfig, ()),
        (jobs.serve.checked, ServeConfig, ()),
    ],
)
def test_job_whose_checks_name_a_list_that_is_not_there_stops_at_once(
    tmp_path, job, config_type, more
):
    missing = tmp_path / "words.txt"
    given = [f"workspace={tmp_path}", f"decoding.text.checks.unsafe_words={missing}"]
    config = load_config(config_type, CONFIGS / "sample.yaml", given)
    with pytest.raises(DataError, match=r"checks\.unsafe_words: the list .*words\.txt"):
        job(config, *more)
    assert not list(tmp_path.iterdir())
