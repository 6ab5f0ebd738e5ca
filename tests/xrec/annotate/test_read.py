"""Which aspects a dataset gets from annotations, from a stage's table as the stage writes it."""

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from xrec.annotate import read
from xrec.annotate.formats import ASPECT_LIST, stage_format
from xrec.annotate.vocabulary import AspectTask
from xrec.config.annotate import VocabularyConfig
from xrec.config.shared import StorageConfig
from xrec.storage import open_location

THUMB = "\N{THUMBS UP SIGN}"


def _aspects(
    monkeypatch: pytest.MonkeyPatch,
    config: VocabularyConfig,
    *reviews: tuple[str, str],
    language: str = "English",
) -> set[tuple[str, str]]:
    """The split and aspect of each row. reviews: a split, and names with commas between."""
    pairs = pa.table(
        {
            "user_id": [f"u{number}" for number in range(len(reviews))],
            "item_id": ["i"] * len(reviews),
            "split": [split for split, _ in reviews],
            "aspects": pa.array([_named(names) for _, names in reviews], ASPECT_LIST),
        }
    )
    training = sorted({n for split, names in reviews if split == "train" for n in names.split(",")})
    task = AspectTask(
        dict.fromkeys(training, 1),
        config,
        stage_format("aspects", ()),
        is_english=language == "English",
    )
    outcome = task.do(pa.table({"aspect": training}))

    table = SimpleNamespace(batches=lambda columns: iter([pairs]))
    monkeypatch.setattr(read, "read_stage", lambda *_: outcome.ok)
    monkeypatch.setattr(read, "read_failed", lambda *_: outcome.failed)
    monkeypatch.setattr(read, "stage_table", lambda *_: table)
    manifest: Any = SimpleNamespace(
        metrics={"tables": {"aspects": 1, "pairs": 1}},
        config={"vocabulary": config.model_dump(mode="json"), "annotator": {"language": language}},
    )
    found = read._aspects(open_location("/nowhere"), manifest, StorageConfig())
    assert found is not None
    return set(zip(found["split"].to_pylist(), found["aspect"].to_pylist(), strict=True))


def _named(names: str) -> list[dict[str, str]]:
    return [{"aspect": name, "opinion": "", "sentiment": "positive"} for name in names.split(",")]


def test_aspects_that_the_synonyms_leave_out_are_not_in_the_dataset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reviews = [("train", "tone,value"), ("test", "value,tone"), ("test", "Values")]
    found = _aspects(
        monkeypatch, VocabularyConfig(synonyms={"value": None}, min_reviews=1), *reviews
    )
    assert found == {("train", "tone"), ("test", "tone")}


def test_aspects_without_letters_are_not_in_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    reviews = [("train", f"tone,{THUMB}"), ("test", f"{THUMB}{THUMB},tone")]
    assert _aspects(monkeypatch, VocabularyConfig(min_reviews=1), *reviews) == {
        ("train", "tone"),
        ("test", "tone"),
    }


def test_aspects_that_only_held_out_reviews_name_follow_the_synonyms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reviews = [("train", "sound"), ("test", "The Tones")]
    found = _aspects(
        monkeypatch, VocabularyConfig(synonyms={"tone": "sound"}, min_reviews=1), *reviews
    )
    assert found == {("train", "sound"), ("test", "sound")}


def test_aspects_that_only_held_out_reviews_name_are_merged_like_their_normal_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def merged(heads: Any, config: Any) -> dict[str, str]:
        return {"tone": "sound"}

    monkeypatch.setattr("xrec.annotate.vocabulary._merged", merged)
    reviews = [("train", "sound"), ("train", "tone"), ("test", "Tones")]
    assert _aspects(monkeypatch, VocabularyConfig(encoder="toy", min_reviews=1), *reviews) == {
        ("train", "sound"),
        ("test", "sound"),
    }


def test_aspects_of_another_language_that_only_held_out_reviews_name_keep_their_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, reviews = VocabularyConfig(min_reviews=1), [("train", "glas"), ("test", "Glas!")]
    found = _aspects(monkeypatch, config, *reviews, language="German")
    assert found == {("train", "glas"), ("test", "glas")}
