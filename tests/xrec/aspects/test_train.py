"""From a dataset with aspects to the artifact and back; what is left out, and what is refused."""

import json
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.train_aspects import output, run
from tests.world.town import prepared_town, with_aspects
from xrec.aspects.artifact import aspects_of
from xrec.aspects.choice import AspectChooser, read_chooser
from xrec.aspects.mentions import dataset_mentions, dataset_praise
from xrec.aspects.scorer import AspectScorer, Weights
from xrec.config.graph import TrainAspectsConfig
from xrec.config.prompt import PromptConfig
from xrec.config.shared import StorageConfig
from xrec.data import read_dataset
from xrec.data.dataset import EXTENDS
from xrec.data.menus import Menus, Opinions
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, ConfigError, DataError
from xrec.storage import Location, open_location, read_manifest


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The town's dataset, whose aspects the tests replace."""
    return prepared_town(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def workspace(plain, tmp_path_factory):
    return with_aspects(plain, tmp_path_factory.mktemp("with-aspects"))


def config(workspace: str, **values: Any) -> TrainAspectsConfig:
    return TrainAspectsConfig.model_validate({"workspace": workspace, **values})


@pytest.fixture(scope="module")
def trained(workspace):
    of = config(workspace)
    run(of)
    return of


@pytest.fixture(scope="module")
def dataset(trained):
    return read_dataset(open_location(trained.artifact("dataset")))


def _aspects(config: TrainAspectsConfig) -> Location:
    return open_location(config.artifact("aspects"))


def test_trained_score_is_read_back_and_finds_the_planted_taste(trained, dataset):
    manifest = output(trained).done()
    figures = manifest.metrics["validation"]
    assert figures["ndcg@10"] > figures["ndcg@10_item"]
    assert figures["ndcg@10"] > figures["ndcg@10_others"]
    assert 0 < manifest.metrics["test"]["ndcg@10"] <= 1
    scorer = read_chooser(_aspects(trained), dataset).scorer
    assert scorer.mentions.num_items == manifest.row_counts["items"] == 30
    assert scorer.weights.own_weight > 0


def test_mentions_of_a_dataset_are_those_of_the_split_that_do_not_blame(dataset):
    found = dataset_mentions(dataset, "train")
    expected = {
        (row["user_index"], row["item_index"], row["aspect_index"])
        for row in dataset.explanation_aspects.to_pylist()
        if row["split"] == "train" and row["sentiment"] != "negative"
    }
    rows, aspects = found.aspects.nonzero()
    pairs = zip(found.users[rows], found.items[rows], aspects, strict=True)
    assert {tuple(map(int, each)) for each in pairs} == expected


def test_counts_lie_in_files_of_the_node_and_choose_as_those_in_memory(
    trained, dataset, monkeypatch
):
    scorer = read_chooser(_aspects(trained), dataset).scorer
    counted = AspectScorer(dataset_mentions(dataset, "train"), scorer.neighbours, scorer.weights)
    in_memory = AspectChooser(counted, praise=dataset_praise(dataset))
    monkeypatch.setattr("xrec.aspects.choice.dataset_mentions", None)  # nothing counts again
    kept = read_chooser(_aspects(trained), dataset)
    pairs = counted.mentions.users, counted.mentions.items
    for leave_out_own in (False, True):
        expected, found = (
            vars(each.choose(*pairs, 3, leave_out_own=leave_out_own)) for each in (in_memory, kept)
        )
        assert {name: values.tolist() for name, values in found.items()} == {
            name: values.tolist() for name, values in expected.items()
        }
    said = dataset.explanation_aspects.select(["item_index", "aspect_index"]).to_pylist()
    unread = replace(dataset, on_disk=None)
    for read, made in ((Menus(dataset), Menus(unread)), (Opinions(dataset), Opinions(unread))):
        places = {tuple(row.values())[: 1 if isinstance(read, Menus) else 2] for row in said}
        assert [read.of(*place) for place in places] == [made.of(*place) for place in places]


def test_second_run_does_no_work_and_other_settings_are_refused(trained, monkeypatch):
    monkeypatch.setattr("xrec.aspects.train.train_aspects", None)
    run(trained)
    with pytest.raises(ArtifactMismatchError, match="min_item_reviews"):
        run(trained.model_copy(update={"min_item_reviews": 3}))


def test_score_of_another_dataset_or_a_changed_file_is_refused(trained, dataset, plain, tmp_path):
    other = with_aspects(plain, tmp_path, ("train", "validation"))
    with pytest.raises(ArtifactMismatchError, match="indices would not fit"):
        read_chooser(_aspects(trained), read_dataset(open_location(f"{other}/dataset")))
    shutil.copytree(trained.artifact("aspects"), tmp_path / "aspects")
    (tmp_path / "aspects" / "weights.json").write_text("{}")
    with pytest.raises(ArtifactMismatchError, match=r"weights\.json: its content"):
        read_chooser(open_location(str(tmp_path / "aspects")), dataset)


def test_score_of_another_version_is_refused(trained, dataset, tmp_path):
    location = open_location(str(tmp_path / "aspects"))
    shutil.copytree(trained.artifact("aspects"), location.path)
    manifest = json.loads((location / "manifest.json").read_text())
    del manifest["config"]["score"]
    (location / "manifest.json").write_bytes(json.dumps(manifest).encode())
    with pytest.raises(ArtifactMismatchError, match=r"another version.*train-aspects"):
        read_chooser(location, dataset)


def test_new_users_and_items_have_what_is_said_of_the_item_and_nothing(trained, dataset):
    earlier = dataset.manifest
    metrics = {**earlier.metrics, EXTENDS: [earlier.fingerprint]}
    extended = replace(
        dataset,
        manifest=earlier.model_copy(update={"fingerprint": "later", "metrics": metrics}),
        users=pa.concat_tables([dataset.users, dataset.users.slice(0, 1)]),
        items=pa.concat_tables([dataset.items, dataset.items.slice(0, 1)]),
    )
    scorer = read_chooser(_aspects(trained), extended).scorer
    new_user, known_item, new_item = dataset.num_users, 3, dataset.num_items
    found = AspectChooser(scorer).choose(
        np.array([new_user, 0]), np.array([known_item, new_item]), 2
    )
    part = scorer.item_part(np.array([known_item]))[0]
    menu = scorer.mentions.of_items[known_item].indices
    assert found.aspects[0, 0] == menu[part[menu].argmax()]
    assert found.user_reviews[0].tolist() == [0, 0]
    assert found.aspects[1].tolist() == [-1, -1]


def test_dataset_without_aspects_or_praise_is_refused(plain, tmp_path):
    with pytest.raises(DataError, match="the dataset has no aspects of pairs"):
        dataset_mentions(replace(plain, aspects=None), "train")
    workspace = with_aspects(plain, tmp_path, ("train", "validation"), ("neutral",))
    with pytest.raises(DataError, match="praised by more training reviews than blame it"):
        run(config(workspace))


def test_dataset_without_validation_aspects_keeps_the_default_weights(plain, tmp_path, caplog):
    of = config(with_aspects(plain, tmp_path, ("train",)))
    manifest = run(of)
    assert manifest.metrics == {"validation": {}, "test": {}}
    dataset = read_dataset(open_location(of.artifact("dataset")))
    assert read_chooser(_aspects(of), dataset).scorer.weights == Weights()
    assert "validation pairs has an aspect: the score is not trained" in caplog.text


def test_prompt_that_asks_for_aspects_needs_an_artifact_whose_counts_it_names(workspace):
    manifest = read_manifest(open_location(f"{workspace}/dataset"), "dataset")
    profiles = manifest.model_copy(update={"metrics": {"aspects_from": "profiles"}})
    storage, counting = StorageConfig(), PromptConfig(aspects=2)
    with pytest.raises(ConfigError, match=r"no reviews to count; expected .*'\{aspect\}'"):
        aspects_of(counting, "unused", profiles, storage)
    with pytest.raises(ArtifactNotFoundError):  # the prompt is right, and there is no artifact
        aspects_of(
            PromptConfig(aspects=2, aspect="{aspect}"), f"{workspace}/none", profiles, storage
        )
    with pytest.raises(ConfigError, match="xrec train-aspects"):
        aspects_of(counting, None, manifest, storage)
    assert aspects_of(PromptConfig(), None, profiles, storage) is None
