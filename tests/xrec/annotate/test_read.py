"""Which aspects a dataset gets from annotations, from the table of pairs as the stage writes it."""

import json
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from xrec.annotate import read
from xrec.annotate.formats import ASPECT_LIST
from xrec.annotate.vocabulary import merged_aspects
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
    training = {n for split, names in reviews if split == "train" for n in names.split(",")}
    is_english = language == "English"
    merged = merged_aspects(dict.fromkeys(training, 1), config, is_english=is_english)
    table = SimpleNamespace(batches=lambda columns: iter([pairs]))
    monkeypatch.setattr(read, "read_content", lambda *_, **__: json.dumps(merged))
    monkeypatch.setattr(read, "stage_table", lambda *_: table)
    manifest: Any = SimpleNamespace(
        metrics={"tables": {"pairs": 1}},
        config={"vocabulary": config.model_dump(mode="json"), "annotator": {"language": language}},
    )
    found = read._aspects(open_location("/nowhere"), manifest, StorageConfig())
    assert found is not None
    return set(zip(found["split"].to_pylist(), found["aspect"].to_pylist(), strict=True))


def _named(names: str) -> list[dict[str, str]]:
    return [{"aspect": name, "opinion": "", "sentiment": "positive"} for name in names.split(",")]


@pytest.mark.parametrize(
    ("vocabulary", "language", "reviews", "expected"),
    [
        pytest.param(
            {"synonyms": {"value": None}},
            "English",
            [("train", "tone,value"), ("test", "value,tone"), ("test", "Values")],
            {("train", "tone"), ("test", "tone")},
            id="left out",
        ),
        pytest.param(
            {},
            "English",
            [("train", f"tone,{THUMB}"), ("test", f"{THUMB}{THUMB},tone")],
            {("train", "tone"), ("test", "tone")},
            id="without letters",
        ),
        pytest.param(
            {"synonyms": {"tone": "sound"}},
            "English",
            [("train", "sound"), ("test", "The Tones")],
            {("train", "sound"), ("test", "sound")},
            id="synonyms of held-out names",
        ),
        pytest.param(
            {"encoder": "toy"},
            "English",
            [("train", "sound"), ("train", "tone"), ("test", "Tones")],
            {("train", "sound"), ("test", "sound")},
            id="merged held-out names",
        ),
        pytest.param(
            {},
            "German",
            [("train", "glas"), ("test", "Glas!")],
            {("train", "glas"), ("test", "glas")},
            id="another language",
        ),
        pytest.param(
            {"min_reviews": 2},
            "English",
            [("train", "tone,warmth"), ("train", "Tones"), ("test", "warmth,tone")],
            {("train", "tone"), ("test", "tone")},
            id="too rare",
        ),
    ],
)
def test_aspects_of_a_dataset_follow_the_vocabulary_held_out_ones_too(
    monkeypatch: pytest.MonkeyPatch,
    vocabulary: dict[str, Any],
    language: str,
    reviews: list[tuple[str, str]],
    expected: set[tuple[str, str]],
) -> None:
    monkeypatch.setattr("xrec.annotate.vocabulary._merged", lambda *_: {"tone": "sound"})
    config = VocabularyConfig.model_validate({"min_reviews": 1, **vocabulary})
    assert _aspects(monkeypatch, config, *reviews, language=language) == expected
