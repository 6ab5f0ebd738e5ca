"""From a dataset with aspects to the artifact and back; what is left out, and what is refused.

Aspects of profiles in the score: what a user's visits tell, without the pair's own.
"""

import json
import math
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse

from tests.errors import raises
from tests.world.town import OF_PROFILES, prepared_town, with_aspects
from xrec.aspects.artifact import aspects_of
from xrec.aspects.choice import AspectChooser, read_chooser
from xrec.aspects.mentions import ProfileMentions, dataset_mentions, dataset_praise
from xrec.aspects.scorer import AspectScorer, Weights
from xrec.config import PromptConfig, StorageConfig, TrainAspectsConfig
from xrec.data import read_dataset
from xrec.data.dataset import EXTENDS
from xrec.data.menus import Menus, Opinions
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, ConfigError, DataError
from xrec.jobs.train_aspects import output, run
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
    with raises(ArtifactMismatchError, "another_run", key="min_item_reviews"):
        run(trained.model_copy(update={"min_item_reviews": 3}))


def test_score_of_another_dataset_or_version_or_a_changed_file_is_refused(
    trained, dataset, plain, tmp_path
):
    other = with_aspects(plain, tmp_path, ("train", "validation"))
    with raises(ArtifactMismatchError, "another_dataset"):
        read_chooser(_aspects(trained), read_dataset(open_location(f"{other}/dataset")))
    location = open_location(str(tmp_path / "aspects"))
    shutil.copytree(trained.artifact("aspects"), location.path)
    (location / "weights.json").write_bytes(b"{}")
    with raises(ArtifactMismatchError, "changed_file", key="weights.json"):
        read_chooser(location, dataset)
    manifest = json.loads((location / "manifest.json").read_text())
    del manifest["config"]["score"]
    (location / "manifest.json").write_bytes(json.dumps(manifest).encode())
    with raises(ArtifactMismatchError, "another_version"):
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
    with raises(DataError, "no_aspects"):
        dataset_mentions(replace(plain, aspects=None), "train")
    workspace = with_aspects(plain, tmp_path, ("train", "validation"), ("neutral",))
    with raises(DataError, "no_praise"):
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
    with raises(ConfigError, "no_reviews_to_count", key="prompt.aspect"):
        aspects_of(counting, "unused", profiles, storage)
    right = PromptConfig(aspects=2, aspect="{aspect}")
    with raises(ArtifactNotFoundError, "no_artifact"):
        aspects_of(right, f"{workspace}/none", profiles, storage)
    with raises(ConfigError, "no_aspects", key="prompt.aspects", saw=2):
        aspects_of(counting, None, manifest, storage)
    assert aspects_of(PromptConfig(), None, profiles, storage) is None


PROFILES = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1], [1, 0, 1], [0, 0, 1]], dtype=np.float32)
VISITS = [(0, 0), (0, 1), (0, 3), (1, 0), (1, 2), (2, 1), (2, 2), (2, 3)]  # nobody visits item 4
OWN_ONLY = Weights(own_weight=0.5, own_reviews=4.0, prior_reviews=2.0)


@pytest.fixture
def visits():
    users, items = np.array(VISITS, dtype=np.int64).T
    return ProfileMentions.of(users, items, scipy.sparse.csr_matrix(PROFILES), 3)


def _scorer(mentions: ProfileMentions, weights: Weights = OWN_ONLY) -> AspectScorer:
    return AspectScorer(mentions, scipy.sparse.csr_matrix((5, 5), dtype=np.float32), weights)


def _expected(user: int, item: int, *, without_own: bool) -> list[float]:
    """The score of an item without neighbours: its profile once, and the user's other visits."""
    found = []
    for aspect in range(3):
        share = (sum(PROFILES[i, aspect] for _, i in VISITS) + 0.5) / (len(VISITS) + 1)
        visits = [i for u, i in VISITS if u == user and not (without_own and i == item)]
        habit = sum(PROFILES[i, aspect] for i in visits)
        of_item = PROFILES[item, aspect] + OWN_ONLY.prior_reviews * share
        found.append(
            math.log(of_item)
            + OWN_ONLY.own_weight * math.log1p(habit / (OWN_ONLY.own_reviews * share))
        )
    return found


@pytest.mark.parametrize("without_own", [False, True])
def test_scores_count_a_profile_once_and_the_users_visits(visits, without_own):
    pairs = [(0, 0), (1, 2), (2, 0), (1, 4)]  # two visits, and two that are none
    users, items = np.array(pairs, dtype=np.int64).T
    found = _scorer(visits).scores(users, items, leave_out_own=without_own)
    expected = [_expected(user, item, without_own=without_own) for user, item in pairs]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_choices_have_the_whole_profile_as_menu_and_the_other_visits_as_evidence(visits):
    users, items = np.array([0, 1, 1], dtype=np.int64), np.array([0, 2, 4], dtype=np.int64)
    chosen = AspectChooser(_scorer(visits)).choose(users, items, 3, leave_out_own=True)
    menus = [sorted(row[row >= 0].tolist()) for row in chosen.aspects]
    assert menus == [[0, 1], [1, 2], [2]]  # also of item 4, which nobody visited
    by_aspect = dict(zip(chosen.aspects[0].tolist(), chosen.user_reviews[0].tolist(), strict=True))
    assert by_aspect == {0: 2, 1: 0, -1: 0}  # of items 1 and 3, and not of item 0 itself
    assert chosen.num_user_reviews.tolist() == [2, 1, 2]
    assert chosen.num_item_reviews.tolist() == [1, 1, 1]
    assert chosen.item_reviews.max(axis=1).tolist() == [1, 1, 1]


@pytest.fixture(scope="module")
def profiles_workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("profiles")


@pytest.fixture(scope="module")
def profiles(profiles_workspace):
    return prepared_town(profiles_workspace, aspects_from=OF_PROFILES)


def test_training_pairs_have_their_items_profile_and_held_out_ones_their_explanation(profiles):
    planted = {name for row in profiles.planted["aspects"].to_pylist() for name in row}
    assert planted <= set(profiles.aspects["aspect"].to_pylist())
    train, held_out = (dataset_mentions(profiles, split) for split in ("train", "test"))
    assert isinstance(train, ProfileMentions)
    assert (train.users.tolist(), train.items.tolist()) == tuple(
        map(list, profiles.interaction_edges("train").tolist())
    )
    np.testing.assert_array_equal(train.aspects.toarray(), train.of_items.toarray()[train.items])
    pairs = profiles.explained_pairs("test")
    assert held_out.users.tolist() == pairs["user_index"].to_pylist()
    assert held_out.items.tolist() == pairs["item_index"].to_pylist()
    assert held_out.aspects.nnz
    assert train.of_users.sum() == sum(profiles.user_aspects["num_reviews"].to_pylist())


def test_train_aspects_of_profiles_reads_back_and_has_one_review_an_item(
    profiles, profiles_workspace
):
    of = config(str(profiles_workspace))
    assert 0 < run(of).metrics["validation"]["ndcg@10"] <= 1
    chooser = read_chooser(_aspects(of), profiles)
    assert isinstance(chooser.scorer.mentions, ProfileMentions)
    more = of.model_copy(update={"min_item_reviews": 2})
    more = more.with_artifacts({"aspects": f"{profiles_workspace}/more"})
    with raises(DataError, "too_many_reviews", key="min_item_reviews", saw=2):
        run(more)
