"""The benchmark of aspect choice: its split, its metric, its controls, and what baselines find."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.aspects import METHODS, Outcome, Substitutes, app, rows
from benchmarks.aspects_data import Reviews, Split, read_reviews
from tests.world.shop import write_json_lines
from xrec.errors import DataError

ASPECTS = ("tone", "neck", "strings", "case", "price")


def _town(num_users: int = 24, num_items: int = 6, seed: int = 0) -> Reviews:
    """Each item has two aspects that all mention; half of the users always mention the price."""
    rng = np.random.default_rng(seed)
    users, items, mentions = [], [], []
    for _ in range(6):
        for user in range(num_users):
            item = int(rng.integers(num_items))
            row = np.zeros(len(ASPECTS), dtype=np.float32)
            row[[item % 4, (item + 1) % 4]] = rng.random(2) < 0.8
            row[4] = user % 2
            users.append(user)
            items.append(item)
            mentions.append(row)
    return Reviews(np.array(users), np.array(items), np.array(mentions))


@pytest.fixture(scope="module")
def split():
    return Split.by_time(_town(), ASPECTS)


def test_split_by_time_tests_on_the_last_review_and_chooses_on_the_one_before():
    users = np.array([0, 1, 0, 1, 0, 1, 0, 2, 3, 3, 3])
    mentions = np.ones((11, 2), dtype=np.float32)
    mentions[10] = 0
    split = Split.by_time(Reviews(users, np.arange(11), mentions), ("a", "b"))
    # User 2 has nothing to train on, and user 3's last review mentions no aspect.
    assert split.test.items.tolist() == [5, 6]
    assert split.validation.items.tolist() == [3, 4, 9]
    assert split.train.items.tolist() == [0, 1, 2, 8]


def test_substitutes_are_never_the_own_user_and_those_of_the_item_reviewed_it(split):
    substitutes = Substitutes.draw(split, seed=3)
    reviewed = set(zip(split.train.users.tolist(), split.train.items.tolist(), strict=True))
    test, drawn = split.test, (substitutes.another, substitutes.same_item)
    for own, item, another, same in zip(test.users, test.items, *drawn, strict=True):
        assert own not in (another, same)
        assert same == -1 or (same, item) in reviewed


def test_item_frequency_is_the_share_of_its_reviews_with_five_of_the_catalogue(split):
    item = int(split.test.items[0])
    of_item = split.train.mentions[split.train.items == item]
    everywhere = (split.train.mentions.sum(axis=0) + 0.5) / (len(split.train) + 1)
    expected = (of_item.sum(axis=0) + 5 * everywhere) / (len(of_item) + 5)
    scores = METHODS["item"](split, 0)(np.array([0]), np.array([item]))
    assert scores[0] == pytest.approx(expected, rel=1e-5)


def test_rows_compare_pair_by_pair_over_the_seeds():
    nan = float("nan")
    item = Outcome(*(np.array([0.2, 0.4]) for _ in range(3)))
    ours = [
        Outcome(np.array([0.4, 0.6]), np.array([0.3, 0.5]), np.array([0.1, nan])),
        Outcome(np.array([0.6, 0.8]), np.array([0.3, 0.5]), np.array([0.1, nan])),
    ]
    found = rows({"item": [item], "ours": ours})[1]
    assert found["NDCG@10"].startswith("0.6000")
    assert found["minus item"] == "0.3000 (0.3000 to 0.3000)"
    assert found["own minus another's"] == "0.2000 (0.2000 to 0.2000)"
    assert found["own minus another's of the item"].startswith("0.4000")


def _write(folder: Path, *reviews: tuple[str, str, int, str]) -> Path:
    """A file of reviews: user, item, time and text."""
    names = ("user_id", "item_id", "time", "review")
    rows = [dict(zip(names, review, strict=True)) for review in reviews]
    return write_json_lines(folder / "reviews.jsonl.gz", rows)


def test_read_reviews_finds_whole_words_and_refuses_those_that_go_back_in_time(tmp_path):
    first = ("a", "x", 2, "The Pre-amp's tones, and a TONE.")
    path = _write(tmp_path, first, ("b", "x", 2, "Nothing."))
    reviews = read_reviews(path, ["tone", "amp", "pre-amp's"])
    assert reviews.mentions.tolist() == [[1, 0, 1], [0, 0, 0]]
    assert (reviews.users.tolist(), reviews.items.tolist()) == ([0, 1], [0, 0])
    with pytest.raises(DataError, match="line 2"):
        read_reviews(_write(tmp_path, first, ("b", "x", 1, "Nothing.")), ["tone"])


def test_command_writes_a_row_for_each_method(run, tmp_path):
    town = _town()
    rows = enumerate(zip(town.users, town.items, town.mentions, strict=True))
    said = [
        (f"u{u}", f"i{i}", time, " ".join(np.array(ASPECTS)[m > 0])) for time, (u, i, m) in rows
    ]
    (tmp_path / "aspects.txt").write_text("\n".join(ASPECTS) + "\n")
    found = run(app, _write(tmp_path, *said), tmp_path / "aspects.txt", seed=0)
    assert [row["method"] for row in found["NDCG@10 of each method"]] == ["item", "ours"]
