"""The benchmarks of aspects: their choice, planted taste, and language models that annotate."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import benchmarks.planted as planted
from benchmarks import annotators
from benchmarks.aspects import Substitutes, app
from benchmarks.aspects_data import Reviews, Split, read_reviews
from benchmarks.planted_data import UNSEEN_PAIRS, UNSEEN_USERS, Town, seen_pairs
from tests.errors import raises
from tests.world.endpoint import Answer, Asked, stub_endpoint
from tests.world.shop import review, write_json_lines
from tests.world.workspace import SOURCE
from tests.xrec.train.adapter_town import make_config
from xrec.data.dataset import read_dataset
from xrec.errors import DataError
from xrec.storage import open_location

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
    with raises(DataError, "not_sorted", key="time", saw=2):
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


@pytest.fixture(scope="module")
def town(workspace):
    return Town.read(make_config(str(workspace), num_workers=1))


def test_seen_pairs_and_scored_pairs_share_no_user_or_no_pair(town):
    unseen, scored = town.unseen(1), town.scored(1, most=1000)
    assert len(unseen) == SOURCE["num_users"] // 5
    for split in ("train", "validation"):
        rows = town.dataset.explained_pairs(split).to_pylist()
        kept = seen_pairs(town.config, town.dataset, split, unseen=unseen)
        assert 0 < kept.num_rows < len(rows)
        assert kept.to_pylist() == [row for row in rows if row["user_index"] not in unseen]
    assert {pair.user_index for pair in scored[UNSEEN_USERS]} <= unseen
    assert not {pair.user_index for pair in scored[UNSEEN_PAIRS]} & unseen
    edges = set(zip(*town.dataset.interaction_edges("train").tolist(), strict=True))
    for pairs in scored.values():
        assert pairs
        assert not {(pair.user_index, pair.item_index) for pair in pairs} & edges


def _scores(*seeds: list[bool]) -> list[dict[str, Any]]:
    """Scores of four pairs of two users by seed; the same for both kinds of pairs."""
    fixed = {"user_id": [f"user-{index // 2}" for index in range(4)], "chance": 0.25}
    fixed |= {"nll": [1.0] * 4, "nll_shuffled": [1.5] * 4, "right_shuffled": [False] * 4}
    kinds = (UNSEEN_PAIRS, UNSEEN_USERS)
    return [{kind: {**fixed, "right": right} for kind in kinds} for right in seeds]


def test_table_pools_the_seeds_and_pairs_each_variant_with_the_constant():
    found = {
        "constant": _scores([True, False, False, False], [False, False, True, True]),
        "projected": _scores([True, True, True, False], [True, True, True, True]),
    }
    rows = [row for row in planted.table(found) if row["pairs"] == UNSEEN_USERS]
    constant, projected = rows
    assert (projected["scored"], projected["by seed"]) == (8, "0.750, 1.000")
    assert projected["aspect accuracy"].startswith("0.875 (")
    # The first user gains 3 of 4, the second 1 of 4: a standard error of 0.25, t is 12.706.
    assert projected["minus constant"] == "0.500 (-2.677 to 3.677)"
    assert projected["gain"] == "0.500 (0.500 to 0.500)"
    assert constant["minus constant"] == ""


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_planted_trains_an_adapter_of_the_seen_users_and_writes_the_table(workspace, run, tmp_path):
    training = {"num_epochs": 1, "global_batch_size": 16, "micro_batch_size": 8}
    arguments = [f"train-adapter.training.{name}={value}" for name, value in training.items()]
    arguments += ["train-adapter.workers.num_processes=1"]
    names, options = ["constant", "text-favourite"], {"workspace": workspace, "seed": 0}
    rows = run(planted.app, *arguments, variant=names, max_scored=6, **options)["Planted"]
    assert [(row["pairs"], row["variant"]) for row in rows] == [
        (kind, name) for kind in (UNSEEN_PAIRS, UNSEEN_USERS) for name in names
    ]
    (epoch,) = json.loads((tmp_path / "out/constant-0/history.json").read_text())
    assert np.isfinite(epoch["validation_loss"])
    dataset = read_dataset(open_location(f"{workspace}/dataset"))
    assert epoch["num_train_pairs"] < 0.9 * dataset.explained_pairs("train").num_rows


def _answer(asked: Asked) -> Answer:
    """Quotes the first word of the review and words that are in none; no JSON of a red thing."""
    if "Red" in json.dumps(asked.body["messages"]):
        return Answer(text="No.")
    word = json.loads(asked.words)["review"].split()[0].strip(".")
    rest = {"opinion": "", "sentiment": "positive"}
    aspects = [{"quote": each, "aspect": each, **rest} for each in (word, "lasts for years")]
    return Answer(text=json.dumps({"aspects": aspects, "explanation": "You would enjoy it."}))


def test_command_tells_valid_replies_and_quotes_of_each_model(run, tmp_path):
    texts = ["Soft and wide.", "", "Red.", "It is heavy.", "Soft."]
    rows = [review(f"u{number}", "i", text) for number, text in enumerate(texts)]
    path, models = write_json_lines(tmp_path / "reviews.jsonl", rows), tmp_path / "models.yaml"
    with stub_endpoint(_answer) as endpoint:
        model = {"kind": "endpoint", "base_url": endpoint.url, "model": "m"}
        models.write_text(yaml.safe_dump([{**model, "api_key_variable": None}]))
        (row,) = run(annotators.app, models, path, num_reviews=4)["Annotators"]
    assert (row["reviews"], row["requests"], row["tokens"]) == (4, 5, 5 * 18)
    assert (row["valid replies"], row["quotes found"]) == ("75.0%", "50.0%")
