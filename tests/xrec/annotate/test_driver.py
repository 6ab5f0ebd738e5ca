"""Whole runs: what is written, what is held out of it, how a run goes on; texts that solicit."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from tests.errors import raises
from tests.world.shop import review, write_json_lines
from tests.xrec.annotate.review_files import (
    HASHED,
    REFUSED,
    SecretTown,
    annotate,
    annotate_config,
    dataset_tables,
    quoting_spec,
    texts_of_training,
)
from xrec.annotate.annotator import (
    Aspect,
    Input,
    ItemInput,
    ItemText,
    PairInput,
    PairText,
    Review,
    ReviewedItem,
    Text,
    UserInput,
    UserText,
    Written,
)
from xrec.annotate.formats import KEYS, stage_format
from xrec.annotate.phrases import phrases_spec
from xrec.annotate.read import read_annotations
from xrec.annotate.task import TextTask
from xrec.bulk import Outcome
from xrec.config import AnnotateConfig
from xrec.errors import ArtifactMismatchError, ArtifactNotFoundError, ConfigError, DataError
from xrec.storage import Manifest

pytestmark = pytest.mark.usefixtures("actor_here")

TOWN = SecretTown(
    "The {secret} is great. I love its {secret}, which is a warm sound. It has a great tone.",
    num_users=12,
    reviews_per_user=5,
    num_items=7,
)


class Quoting:
    """Runs by the annotator that quotes; all over one file of reviews."""

    def __init__(self, folder: Path):
        self.folder = folder

    def config(self, *rows: dict[str, Any], name: str = "ws", **values: Any) -> AnnotateConfig:
        """A config over these reviews; over those of before if there are none."""
        path = self.folder / "raw" / "reviews.jsonl"
        if rows:
            write_json_lines(path, rows)
        return annotate_config(self.folder / name, path.parent, **values)

    def run(self, config: AnnotateConfig, **spec: Any) -> Manifest:
        manifest = annotate(config, quoting_spec(self.folder, **spec))
        assert manifest is not None
        return manifest

    def asked(self) -> Counter[str]:
        """The rows that were asked since the last call."""
        file = self.folder / "asked"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return Counter(lines)


@pytest.fixture
def quoting(tmp_path):
    return Quoting(tmp_path)


def _values(table: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in table.to_pylist()]


@pytest.mark.parametrize(
    ("kind", "folds"),
    [
        ("phrases", None),
        ("quoting", 2),
        pytest.param("quoting", 100, marks=pytest.mark.slow),
    ],
)
def test_run_no_word_of_a_held_out_or_a_pairs_own_review_is_in_what_trains(tmp_path, kind, folds):
    """Every secret may be an aspect: only leaving its review out keeps it away."""
    held_out, others = TOWN.secrets(held_out=True), TOWN.secrets(held_out=False)
    config = annotate_config(
        tmp_path / "ws",
        TOWN.write(tmp_path / "raw" / "reviews.jsonl"),
        annotator={"kind": "phrases"},
        vocabulary={"min_reviews": 1, "add": [*others, *held_out]},
        rows_per_chunk=16,
    )
    of_phrases = phrases_spec(config.annotator, config.vocabulary)
    spec = of_phrases if kind == "phrases" else quoting_spec(tmp_path)
    assert annotate(config, replace(spec, folds=folds)) is not None
    tables = dataset_tables(config)
    training = texts_of_training(tables)
    assert sum(secret in training for secret in others) > 10
    assert [secret for secret in held_out if secret in training] == []
    if kind == "quoting":  # what is held out is nevertheless known as a reference
        explanations = tables["explanations"].to_pylist()
        references = " ".join(row["explanation"] for row in explanations if row["split"] != "train")
        assert all(secret in references for secret in held_out)
    rows, num_with_others = tables["training_profiles"].to_pylist(), 0
    for row in rows:
        user = tables["users"]["user_id"][row["user_index"]].as_py()
        item = tables["items"]["item_id"][row["item_index"]].as_py()
        shown = f"{row['user_profile']} {row['item_profile']}".lower()
        assert not any(each in shown for each in (TOWN.secret_of(user, item), *held_out))
        num_with_others += any(each in shown for each in others)
    assert len(rows) == len(others)
    assert num_with_others > len(rows) / 2  # what else the user and others wrote is there


def test_run_user_of_one_review_has_no_profile_without_it(quoting):
    rows = [review(user, "1", text, time=1) for user, text in (("a", "warm"), ("b", "soft"))]
    config = quoting.config(*rows)
    quoting.run(config, folds=None)
    profiles = _values(dataset_tables(config)["training_profiles"])
    assert profiles == [(0, 0, "", "soft"), (1, 0, "", "warm")]


def test_run_reviews_that_praise_nothing_or_are_low_rated_count_in_aspects_alone(quoting):
    """One that praises nothing is an interaction too, and a low-rated one is in nothing else."""
    config = quoting.config(
        review("a", "1", "warm loud", time=1),
        review("a", "2", "warm", time=2),
        review("b", "1", "warm loud", time=1),
        review("d", "2", "blame warm", time=1),
        review("e", "1", f"loud < {'and louder ' * 9}loudest", time=1),
        review("c", "1", "blame loud odd", time=1, rating=1),
        review("b", "2", "warm too", time=2, rating=2),
    )
    manifest = quoting.run(config)
    tables = dataset_tables(config)
    assert "training_profiles" not in tables  # there are no folds
    counts = {name: manifest.row_counts[name] for name in ("reviews", "pairs", "explanations")}
    assert counts == {"reviews": 5, "pairs": 7, "explanations": 4}
    assert manifest.metrics["num_low_rated"] == 2
    assert manifest.metrics["pairs_without_praise"] == pytest.approx(1 / 5)
    assert tables["users"]["user_id"].to_pylist() == ["a", "b", "c", "d", "e"]
    assert _values(tables["dislikes"]) == [(1, 1), (2, 0)]  # c, who likes nothing, is known for it
    assert (tables["interactions"].num_rows, tables["explanations"].num_rows) == (5, 4)
    assert {"odd", "too"}.isdisjoint(texts_of_training(tables).split())
    assert _values(tables["aspects"]) == [(0, "warm", 4, 3, 1), (1, "loud", 3, 3, 0)]
    found = _values(tables["low_rated_aspects"])
    assert found == [(0, 1, 1, 0, 1), (1, 0, 1, 1, 0)]  # of item 1 and loud, of item 2 and warm
    page = (quoting.folder / "ws" / "annotations" / "report.html").read_text()
    assert "<td>blame warm</td>" in page
    assert f"<td>loud &lt; {'and louder ' * 9}loudest</td>" in page  # whole, and as text


def _aspects(config: AnnotateConfig) -> set[tuple[str, str]]:
    aspects = read_annotations(config.artifact("annotations"), config.storage)["aspects"]
    return set(zip(aspects["split"].to_pylist(), aspects["aspect"].to_pylist(), strict=True))


_ENGLISH = {"min_reviews": 2, "synonyms": {"loud": "noise", "values": None}, "add": ["glows"]}


@pytest.mark.parametrize(
    ("language", "vocabulary", "texts", "expected"),
    [
        # Warmth is in one training review only, and a glow too, but it is asked for.
        (
            *("English", _ENGLISH),
            ("tone value loud warmth glow", "Tones values noise", "Values tone Louds warmth Glow"),
            {"tone", "noise", "glow"},
        ),
        ("German", {"min_reviews": 1}, ("glas", "Glas", "Glas!"), {"glas"}),
    ],
)
def test_run_aspects_follow_the_vocabulary_those_of_held_out_reviews_too(
    quoting, language, vocabulary, texts, expected
):
    rows = [review("u", f"i{n}", text, time=n) for n, text in enumerate([*texts, texts[-1]])]
    # The items of held-out reviews have no profiles.
    config = quoting.config(*rows, vocabulary=vocabulary, max_failed_share=1)
    quoting.run(config, settings={"kind": "quoting", "language": language})
    splits = ("train", "validation", "test")
    assert _aspects(config) == {(split, name) for split in splits for name in expected}


def test_run_failed_texts_have_reason_and_reply_and_can_be_retried(quoting):
    texts = {"a": "refuse this", "b": "warm", "c": "", "d": "loud"}
    rows = [review(user, "1", text) for user, text in texts.items()]
    config = quoting.config(*rows, split=HASHED)
    manifest = quoting.run(config)
    assert manifest.metrics["failed"]["pairs"] == {REFUSED: 1, "empty_review": 1}
    tables = read_annotations(config.artifact("annotations"), config.storage)
    assert (tables["interactions"].num_rows, tables["explanations"].num_rows) == (4, 2)
    (quoting.folder / "mended").touch()
    retried = quoting.run(config.model_copy(update={"retry_failed": (REFUSED,)}))
    assert retried.metrics["failed"]["pairs"] == {"empty_review": 1}
    assert retried.fingerprint != manifest.fingerprint  # so that the dataset is made again
    once = ("item 1", *(f"user {user}" for user in texts), "pair b 1", "pair d 1")
    assert quoting.asked() == {**dict.fromkeys(once, 1), "pair a 1": 2}


def test_run_carries_texts_whose_inputs_are_the_same(quoting):
    rows = [review("a", "1", "warm"), review("b", "2", "loud")]
    first = quoting.config(*rows, split=HASHED)
    quoting.run(first)
    quoting.asked()
    carry_from = first.artifact("annotations")
    new = review("c", "2", "new")
    quoting.run(quoting.config(*rows, new, name="ws2", split=HASHED, carry_from=carry_from))
    # The new review changes item 2, and so the user who reviewed it; a and their pair stay.
    assert quoting.asked().keys() == {"item 2", "user b", "user c", "pair b 2", "pair c 2"}


def test_run_carries_no_text_of_an_annotator_that_had_learned_something_else(quoting):
    first = quoting.config(review("a", "1", "warm"), split=HASHED)
    quoting.run(first, learned=lambda output: "this")
    carried = {"split": HASHED, "carry_from": first.artifact("annotations")}
    for learned, num_asked in (("this", 0), ("that", 3)):
        quoting.asked()
        config = quoting.config(name=learned, **carried)
        quoting.run(config, learned=lambda output, learned=learned: learned)
        assert quoting.asked().total() == num_asked


def test_run_that_cannot_be_says_why(quoting):
    config = quoting.config(review("a", "1", "warm"), split=HASHED)
    quoting.run(config)
    for changes, error, code, key in (
        ({"retry_failed": ("nonsense",)}, ConfigError, "unknown_reason", "retry_failed"),
        ({"carry_from": "/nowhere"}, ArtifactNotFoundError, "no_artifact", None),
    ):
        with raises(error, code, key):
            quoting.run(config.model_copy(update=changes))
    with pytest.raises(ArtifactMismatchError) as raised:  # the same place
        quoting.run(config.model_copy(update={"min_rating": 3.0}))
    assert "min_rating" in str(raised.value)
    with pytest.raises(ArtifactMismatchError) as raised:
        quoting.run(quoting.config(review("a", "1", "loud"), split=HASHED))
    assert "inputs.reviews" in str(raised.value)


def test_run_too_many_rejected_rows_are_an_error_and_nothing_is_written(quoting):
    config = quoting.config(review("a", "1"), review("b", "1", time="a long time ago"))
    with raises(DataError, "too_many_rejected", "reviews.jsonl", 1):
        quoting.run(config)
    assert not (quoting.folder / "ws" / "annotations" / "reviews").exists()


def test_run_on_a_bucket_gives_the_same_texts_as_on_a_disk(tmp_path, s3):
    path = replace(TOWN, num_users=3).write(tmp_path / "reviews.jsonl")
    found, buckets = [], {"storage": s3.storage}
    for place, storage in ((tmp_path / "ws", {}), (f"{s3.new_bucket()}/ws", buckets)):
        config = annotate_config(place, path, vocabulary={"add": ["tone"]}, **storage)
        assert annotate(config, phrases_spec(config.annotator, config.vocabulary)) is not None
        tables = read_annotations(config.artifact("annotations"), config.storage)
        found.append({name: sorted(map(str, table.to_pylist())) for name, table in tables.items()})
    assert found[0] == found[1]
    assert found[0]["aspects"]


_REVIEW = Review("u", "i", "It is calm.")
_TITLE = "Books.com"


def _done(row: Input, text: Text) -> Outcome:
    stages = {ItemInput: "items", UserInput: "users", PairInput: "pairs"}
    stage = stages[type(row)]
    says = SimpleNamespace(write=lambda rows: Written([text]))
    task = TextTask(lambda rows: [row], says, stage_format(stage, ()), "", 0)
    return task.do(pa.table({key: [getattr(row, key)] for key in KEYS[stage]}))


def _input(split: str = "train") -> PairInput:
    return PairInput("u", "i", _REVIEW, ItemText(_TITLE, ""), split)


# The third is of a review from which something was removed.
@pytest.mark.parametrize("quote", ["mail maria@x.org", "order now", "calm [\u2026] place"])
def test_quote_that_solicits_is_left_out_and_its_aspect_stays_unless_its_name_does(quote):
    said = (("calm", quote), ("tea", "hot"), ("www.x.org", "calm"))
    aspects = tuple(Aspect(*each, "positive") for each in said)
    done = _done(_input(), PairText("You would enjoy it.", aspects))
    (row,) = done.ok.to_pylist()
    found = [(each["aspect"], each["opinion"]) for each in row["aspects"]]
    assert found == [("calm", ""), ("tea", "hot")]
    assert done.costs["personal_removed"] == 2


@pytest.mark.parametrize(
    ("explanation", "kept"),
    [
        ("It is calm. Ask for Maria. It is near.", "It is calm. It is near."),
        ("You would enjoy Books.com.", "You would enjoy Books.com."),
    ],
)
def test_explanation_loses_the_sentences_that_solicit_outside_the_title(explanation, kept):
    done = _done(_input(), PairText(explanation, ()))
    assert done.ok["explanation"].to_pylist() == [kept]


def test_profile_of_a_user_may_name_an_item_whose_title_is_a_link():
    reviewed = (ReviewedItem(_REVIEW, ItemText(_TITLE, "")), ReviewedItem(_REVIEW, None))
    text = UserText("Has enjoyed Books.com. Ask for Maria.")
    done = _done(UserInput("u", reviewed, 2), text)
    assert done.ok["profile"].to_pylist() == ["Has enjoyed Books.com."]


def test_explanation_of_which_nothing_is_left_fails_if_it_is_kept():
    text = PairText("Ask for Maria.", (Aspect("tea", "", "positive"),))
    (failed,) = _done(_input(), text).failed.to_pylist()
    assert (failed["reason"], failed["reply"]) == ("solicits", "Ask for Maria.")
    (row,) = _done(_input("low_rated"), text).ok.to_pylist()
    assert len(row["aspects"]) == 1


@pytest.mark.parametrize(
    ("text", "title"),
    [
        (ItemText("Books.com", "Calm."), "Books.com"),  # the source's own
        (ItemText("Shop evil.com", "Calm.", title_is_made=True), ""),
    ],
)
def test_title_of_the_source_stays_and_a_made_one_that_solicits_goes(text, title):
    own = "" if text.title_is_made else text.title
    done = _done(ItemInput("i", own, "", (_REVIEW,), 1), text)
    assert [done.ok["title"][0].as_py(), done.ok["profile"][0].as_py()] == [title, "Calm."]
