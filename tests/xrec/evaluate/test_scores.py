import pyarrow as pa
import pytest

from xrec.data.dataset import HeldOutPair
from xrec.evaluate.scores import Coverage, other_users

USERS = [f"u{number % 7}" for number in range(30)]


def test_coverage_counts_the_reasons_of_pairs_without_a_text_and_what_a_template_wrote():
    texts = (("a", "t"), ("b", ""), ("c", "t"))
    rows = [(HeldOutPair(user, "i", 0, 0, "r"), text) for user, text in texts]
    ids = {"user_id": ["a", "b", "d"], "item_id": ["i"] * 3}
    failed = pa.table({**ids, "reason": ["x", "y", "z"]})
    explanations = pa.table(
        {**ids, "user_id": ["a", "c", "d"], "kind": ["plain", "written", "plain"]}
    )
    assert Coverage.of(rows, explanations, failed) == Coverage(2, {"y": 1}, 1)


@pytest.mark.parametrize(("num_plain", "warns"), [(33, False), (34, True)])
@pytest.mark.parametrize("failed", [{}, {"y": 1}])
def test_coverage_warns_where_a_template_wrote_more_than_a_third(num_plain, warns, failed):
    sentence = Coverage(99, failed, num_plain).sentence
    assert (f"Warning: {num_plain} of the texts are plain" in sentence) == warns


@pytest.mark.parametrize("seed", range(5))
def test_other_user_is_never_the_same_and_each_stands_in_once(seed):
    stand_ins = dict(zip(USERS, other_users(USERS, seed), strict=True))
    assert all(user != other for user, other in stand_ins.items())
    assert sorted(stand_ins.values()) == sorted(set(USERS))
    backward = dict(zip(USERS[::-1], other_users(USERS[::-1], seed), strict=True))
    assert backward == stand_ins  # whatever the order of the pairs


def test_other_users_change_with_the_seed_and_two_stand_in_for_each_other():
    assert len({tuple(other_users(USERS, seed)) for seed in range(10)}) > 1
    assert other_users(["a", "a", "a", "b"], 0) == ["b", "b", "b", "a"]
