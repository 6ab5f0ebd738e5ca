"""Whole runs: what is written, what is held out of it, and how a run goes on."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.world.shop import review, write_json_lines
from tests.xrec.annotate.review_files import (
    HASHED,
    SecretTown,
    annotate,
    annotate_config,
    dataset_tables,
    texts_of_training,
)
from tests.xrec.annotate.toy_annotator import REFUSED, quoting_spec
from xrec.annotate.phrases import phrases_spec
from xrec.annotate.read import read_annotations
from xrec.config.annotate import AnnotateConfig
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


def _rows(table: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in table.to_pylist()]


@pytest.mark.parametrize(
    ("kind", "folds"), [("phrases", None), ("quoting", None), ("quoting", 2), ("quoting", 100)]
)
def test_run_no_word_of_a_held_out_or_a_pairs_own_review_is_in_what_trains(tmp_path, kind, folds):
    """Every secret may be an aspect: only leaving its review out keeps it away."""
    held_out, others = TOWN.secrets(held_out=True), TOWN.secrets(held_out=False)
    config = annotate_config(
        tmp_path / "ws",
        TOWN.write(tmp_path / "raw" / "reviews.jsonl"),
        annotator={"kind": "phrases", "min_reviews": 1},
        vocabulary={"min_reviews": 1, "add": [*others, *held_out]},
        rows_per_chunk=4,
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
    config = quoting.config(
        review("a", "1", "warm loud", time=1), review("b", "1", "soft loud", time=1)
    )
    quoting.run(config, folds=None)
    profiles = _rows(dataset_tables(config)["training_profiles"])
    assert profiles == [(0, 0, "", "soft loud"), (1, 0, "", "warm loud")]


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
    assert tables["users"]["user_id"].to_pylist() == ["a", "b", "d", "e"]
    assert (tables["interactions"].num_rows, tables["explanations"].num_rows) == (5, 4)
    assert {"odd", "too"}.isdisjoint(texts_of_training(tables).split())
    assert _rows(tables["aspects"]) == [(0, "warm", 4, 3, 1), (1, "loud", 3, 3, 0)]
    found = _rows(tables["low_rated_aspects"])
    assert found == [(0, 1, 1, 0, 1), (1, 0, 1, 1, 0)]  # of item 1 and loud, of item 2 and warm
    page = (quoting.folder / "ws" / "annotations" / "report.html").read_text()
    assert "<td>blame warm</td>" in page
    assert f"<td>loud &lt; {'and louder ' * 9}loudest</td>" in page  # whole, and as text


def test_run_warns_where_few_reviews_praise(quoting, caplog):
    rows = [review(user, "1", "blame warm", time=1) for user in "abcd"]
    quoting.run(quoting.config(*rows))
    assert "in 100 % of the reviews the annotator found no praise" in caplog.text


@pytest.mark.parametrize(
    ("vocabulary", "language", "training", "held_out", "expected"),
    [
        ({"drop": ["values"]}, "English", ["tone value"], "Values tone", "tone"),
        ({"synonyms": {"tone": "sound"}}, "English", ["sound"], "Tones", "sound"),
        ({"min_reviews": 2}, "English", ["tone warmth", "Tones"], "warmth tone", "tone"),
        ({"min_reviews": 9, "add": ["tones"]}, "English", ["tone warmth"], "Tones", "tone"),
        ({}, "German", ["glas"], "Glas!", "glas"),
    ],
    ids=["dropped", "synonym", "too rare", "added", "another language"],
)
def test_run_aspects_follow_the_vocabulary_those_of_held_out_reviews_too(
    quoting, vocabulary, language, training, held_out, expected
):
    texts = [*training, held_out, held_out]
    rows = [review("u", f"i{place}", text, time=place) for place, text in enumerate(texts)]
    # The items of held-out reviews have no profiles.
    settings = {"vocabulary": {"min_reviews": 1, **vocabulary}, "max_failed_share": 1}
    config = quoting.config(*rows, **settings)
    quoting.run(config, settings={"kind": "quoting", "language": language})
    aspects = read_annotations(config.artifact("annotations"), config.storage)["aspects"]
    found = set(zip(aspects["split"].to_pylist(), aspects["aspect"].to_pylist(), strict=True))
    assert found == {(split, expected) for split in ("train", "validation", "test")}


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


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (
            {"retry_failed": ("nonsense",)},
            ConfigError,
            "retry_failed: nonsense: expected all, or some of",
        ),
        (
            {"carry_from": "/nowhere"},
            ArtifactNotFoundError,
            "carry_from: /nowhere: there are no annotations",
        ),
        ({"min_rating": 3.0}, ArtifactMismatchError, "min_rating"),  # the same place
    ],
)
def test_run_that_cannot_be_says_why(quoting, changes, error, words):
    config = quoting.config(review("a", "1", "warm"), split=HASHED)
    quoting.run(config)
    with pytest.raises(error, match=words):
        quoting.run(config.model_copy(update=changes))


def test_run_too_many_rejected_rows_are_an_error_and_nothing_is_written(quoting):
    config = quoting.config(review("a", "1"), review("b", "1", time="a long time ago"))
    with pytest.raises(DataError, match="1 of 2 rows are unusable") as raised:
        quoting.run(config)
    assert "time must be a number or a date" in str(raised.value)
    assert not (quoting.folder / "ws" / "annotations" / "reviews").exists()


def test_run_on_a_bucket_gives_the_same_texts_as_on_a_disk(tmp_path, s3):
    path = replace(TOWN, num_users=4).write(tmp_path / "reviews.jsonl")
    found = []
    vocabulary = {"add": ["tone"]}
    for config in (
        annotate_config(tmp_path / "ws", path, vocabulary=vocabulary),
        annotate_config(f"{s3.new_bucket()}/ws", path, vocabulary=vocabulary, storage=s3.storage),
    ):
        assert annotate(config, phrases_spec(config.annotator, config.vocabulary)) is not None
        tables = read_annotations(config.artifact("annotations"), config.storage)
        found.append({name: sorted(map(str, table.to_pylist())) for name, table in tables.items()})
    assert found[0] == found[1]
    assert found[0]["aspects"]
