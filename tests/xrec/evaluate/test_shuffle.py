import pytest

from xrec.evaluate import other_users

USERS = [f"u{number % 7}" for number in range(30)]


@pytest.mark.parametrize("seed", range(20))
def test_other_user_is_never_the_same_and_each_stands_in_once(seed):
    stand_ins = dict(zip(USERS, other_users(USERS, seed), strict=True))
    assert all(user != other for user, other in stand_ins.items())
    assert sorted(stand_ins.values()) == sorted(set(USERS))


def test_other_user_of_a_user_does_not_depend_on_the_order_of_pairs():
    forward = dict(zip(USERS, other_users(USERS, 5), strict=True))
    backward = dict(zip(USERS[::-1], other_users(USERS[::-1], 5), strict=True))
    assert forward == backward


def test_other_users_change_with_the_seed():
    assert len({tuple(other_users(USERS, seed)) for seed in range(10)}) > 1


def test_two_users_stand_in_for_each_other_even_where_one_has_most_pairs():
    assert other_users(["a", "a", "a", "b"], 0) == ["b", "b", "b", "a"]


@pytest.mark.parametrize("users", [[], ["a", "a"]])
def test_fewer_than_two_users_are_refused(users):
    with pytest.raises(ValueError, match="at least 2"):
        other_users(users, 0)
