"""Aspects of profiles in the score: what a user's visits tell, without the pair's own."""

import math

import numpy as np
import pytest
import scipy.sparse

from jobs.train_aspects import run as train_aspects
from tests.world.town import OF_PROFILES, prepared_town
from xrec.aspects.choice import AspectChooser, read_chooser
from xrec.aspects.mentions import ProfileMentions, dataset_mentions
from xrec.aspects.scorer import AspectScorer, Weights
from xrec.config.graph import TrainAspectsConfig
from xrec.errors import DataError
from xrec.storage import open_location

PROFILES = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1], [1, 0, 1], [0, 0, 1]], dtype=np.float32)
VISITS = [(0, 0), (0, 1), (0, 3), (1, 0), (1, 2), (2, 1), (2, 2), (2, 3)]  # nobody visits item 4
OWN_ONLY = Weights(own_weight=0.5, own_reviews=4.0, prior_reviews=2.0)


@pytest.fixture
def mentions():
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
def test_scores_count_a_profile_once_and_the_users_visits(mentions, without_own):
    pairs = [(0, 0), (1, 2), (2, 0), (1, 4)]  # two visits, and two that are none
    users, items = np.array(pairs, dtype=np.int64).T
    found = _scorer(mentions).scores(users, items, leave_out_own=without_own)
    expected = [_expected(user, item, without_own=without_own) for user, item in pairs]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_choices_have_the_whole_profile_as_menu_and_the_other_visits_as_evidence(mentions):
    users, items = np.array([0, 1, 1], dtype=np.int64), np.array([0, 2, 4], dtype=np.int64)
    chosen = AspectChooser(_scorer(mentions)).choose(users, items, 3, leave_out_own=True)
    menus = [sorted(row[row >= 0].tolist()) for row in chosen.aspects]
    assert menus == [[0, 1], [1, 2], [2]]  # also of item 4, which nobody visited
    by_aspect = dict(zip(chosen.aspects[0].tolist(), chosen.user_reviews[0].tolist(), strict=True))
    assert by_aspect == {0: 2, 1: 0, -1: 0}  # of items 1 and 3, and not of item 0 itself
    assert chosen.num_user_reviews.tolist() == [2, 1, 2]
    assert chosen.num_item_reviews.tolist() == [1, 1, 1]
    assert chosen.item_reviews.max(axis=1).tolist() == [1, 1, 1]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("profiles")


@pytest.fixture(scope="module")
def dataset(workspace):
    return prepared_town(workspace, aspects_from=OF_PROFILES)


def test_profiles_of_the_sample_hold_what_the_town_planted(dataset):
    assert dataset.aspects_from == "profiles"
    planted = {name for row in dataset.planted["aspects"].to_pylist() for name in row}
    assert planted <= set(dataset.aspects["aspect"].to_pylist())


def test_training_pairs_have_their_items_profile_and_held_out_ones_their_explanation(dataset):
    train, held_out = (dataset_mentions(dataset, split) for split in ("train", "test"))
    assert isinstance(train, ProfileMentions)
    assert (train.users.tolist(), train.items.tolist()) == tuple(
        map(list, dataset.interaction_edges("train").tolist())
    )
    np.testing.assert_array_equal(train.aspects.toarray(), train.of_items.toarray()[train.items])
    pairs = dataset.explained_pairs("test")
    assert held_out.users.tolist() == pairs["user_index"].to_pylist()
    assert held_out.items.tolist() == pairs["item_index"].to_pylist()
    assert held_out.aspects.nnz
    assert train.of_users.sum() == sum(dataset.user_aspects["num_reviews"].to_pylist())


def test_train_aspects_of_profiles_reads_back_and_has_one_review_an_item(workspace, dataset):
    config = TrainAspectsConfig(workspace=str(workspace))
    assert 0 < train_aspects(config).metrics["validation"]["ndcg@10"] <= 1
    chooser = read_chooser(open_location(config.artifact("aspects")), dataset)
    assert isinstance(chooser.scorer.mentions, ProfileMentions)
    more = config.model_copy(update={"min_item_reviews": 2, "aspects": f"{workspace}/more"})
    with pytest.raises(DataError, match=r"min_item_reviews is 2.*profiles"):
        train_aspects(more)
