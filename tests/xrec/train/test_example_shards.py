"""The examples are written once, and anew if what they depend on differs."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from ray import cloudpickle

from tests.xrec.train.adapter_town import adapter_data, load_here, make_config
from xrec.config.adapter import TrainAdapterConfig
from xrec.data.dataset import read_dataset
from xrec.errors import ArtifactMismatchError, DataError
from xrec.llm.examples import Example
from xrec.llm.prefix import num_prefix_tokens
from xrec.storage import location_of
from xrec.train import example_shards as stage
from xrec.train.example_shards import _pair_prompts, write_examples

RUN, INPUTS = {"seed": 1}, {"dataset": "d"}


@pytest.fixture
def config(workspace, tmp_path):
    return make_config(workspace, adapter=tmp_path)


def as_lists(example: Example) -> Example:
    return Example(list(example.prompt_ids), list(example.label_ids))


def files_of(config: TrainAdapterConfig) -> dict[str, bytes]:
    folder = Path(config.artifact("adapter"), "checkpoints", "examples")
    return {file.name: file.read_bytes() for file in folder.glob("*.arrow")}


def test_examples_that_are_there_are_found(config, monkeypatch):
    manifest = write_examples(config, RUN, INPUTS)
    monkeypatch.setattr(stage, "_written", Mock(side_effect=AssertionError))
    assert write_examples(config, RUN, INPUTS) == manifest


@pytest.mark.parametrize(("run", "inputs"), [(RUN, {"dataset": "e"}), ({"seed": 2}, INPUTS)])
def test_examples_of_another_run_or_without_a_manifest_are_made_anew(config, run, inputs):
    write_examples(config, RUN, INPUTS)
    whole = files_of(config)
    training = config.training.model_copy(update={"max_pairs": 20})
    fewer = config.model_copy(update={"training": training})
    assert write_examples(fewer, run, inputs).row_counts["train"] == 20
    assert files_of(config) != whole
    Path(config.artifact("adapter"), "checkpoints/examples/manifest.json").unlink()
    write_examples(config, run, inputs)
    assert files_of(config) == whole


def map_here(make: Any, items: Sequence[Any], *, num_processes: int) -> list[tuple[int, Any]]:
    """In this process, in another order than that of the items."""
    do = cloudpickle.loads(cloudpickle.dumps(make))()
    return [(place, do(item)) for place, item in reversed(list(enumerate(items)))]


@pytest.mark.parametrize("on_ray", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_examples_in_many_shards_are_those_of_one(config, request, monkeypatch, on_ray):
    whole = adapter_data(config)
    if on_ray:
        request.getfixturevalue("ray_cluster")
    else:
        monkeypatch.setattr(stage, "map_in_processes", map_here)
    monkeypatch.setattr(stage, "_PAIRS_PER_SHARD", 40)
    in_shards = config.model_copy(update={"adapter": f"{config.adapter}/other"})
    data = adapter_data(in_shards)
    assert len(files_of(in_shards)) > 3
    for split in ("train", "validation"):
        assert list(getattr(data, split)) == list(getattr(whole, split))
    assert (data.shared_ids, data.left_out) == (whole.shared_ids, whole.left_out)


def test_examples_are_those_of_the_prompts_and_their_parts_are_counted(config):
    data = adapter_data(config)
    dataset = read_dataset(location_of(config, "dataset"))
    prompts = _pair_prompts(config, dataset)
    num_text_tokens = prompts.builder.vocabulary.num_text_tokens
    for split, examples in (("train", data.train), ("validation", data.validation)):
        expected, _ = prompts.examples(dataset.explained_pairs(split), 128)
        assert [examples[row] for row in range(len(examples))] == list(map(as_lists, expected))
        before = [num_prefix_tokens(each.prompt_ids, num_text_tokens) for each in expected]
        lengths = np.array([len(each) for each in expected])
        assert examples.num_label_tokens.tolist() == [len(each.label_ids) for each in expected]
        assert examples.lengths(can_split=False).tolist() == lengths.tolist()
        assert examples.lengths(can_split=True).tolist() == (lengths - before).tolist()
        beginnings = {tuple(each.prompt_ids[: len(data.shared_ids)]) for each in expected}
        assert beginnings == {tuple(data.shared_ids)}
        assert len(data.shared_ids) > 3
    both = (data.train, data.validation)
    assert data.longest()[0] == max(each.num_prefix_tokens.max() for each in both)


def test_examples_on_s3_leave_nothing_on_the_nodes_disk(config, s3, bucket, tmp_path, monkeypatch):
    expected = adapter_data(config)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    storage = {"adapter": f"{bucket}/on-s3", "storage": s3.storage}
    data = adapter_data(config.model_copy(update=storage))
    assert [data.train[0], data.train[9]] == [expected.train[0], expected.train[9]]  # still mapped
    assert not list(tmp_path.glob("xrec-examples-*"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "the manifest names this file, and it is not there"),
        (lambda file: file.write_bytes(file.read_bytes()[:-9]), "its content is not what the man"),
    ],
)
def test_shard_that_is_missing_or_of_another_content_is_refused(config, damage, message):
    write_examples(config, RUN, INPUTS)
    (shard,) = Path(config.artifact("adapter")).rglob("train-*.arrow")
    damage(shard)
    with pytest.raises(ArtifactMismatchError, match=rf"train-0+\.arrow: {message}.*run again"):
        load_here(config)


@pytest.mark.parametrize("change", [{"global_batch_size": 4096}, {"max_explanation_tokens": 1}])
def test_too_few_examples_are_refused(workspace, tmp_path, change: dict[str, Any]):
    config = make_config(workspace, adapter=tmp_path, **change)
    message = r"training and \d+ validation pairs .* at least training\.global_batch_size"
    for _ in range(2):  # nothing was finished
        with pytest.raises(DataError, match=message):
            write_examples(config, RUN, INPUTS)
