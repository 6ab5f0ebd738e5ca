"""A hostile review changes no text but its own, which does not say what the review wants.

A catalog is annotated with hostile reviews and with their harmless parts, by phrases and by a
language model that obeys whatever its prompt shows. Each hostile review has its own user and item,
who have one other review each.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.world.endpoint import Answer, Asked, stub_endpoint
from tests.world.shop import review, write_json_lines
from tests.xrec.annotate.review_files import HASHED, annotate, annotate_config
from tests.xrec.annotate.smuggled import ORDERS, PAYLOAD, PRAISE, SMUGGLED
from xrec.annotate.annotator import STAGES
from xrec.annotate.language_model import language_model_spec
from xrec.annotate.phrases import phrases_spec
from xrec.annotate.read import read_annotations, read_stage
from xrec.config import AnnotateConfig, PhrasesAnnotator
from xrec.storage import Manifest, location_of

_TEXTS = (
    "This pedal has a warm tone. The switch is sturdy.",
    "I like this pedal for its great tone, and the bright display is lovely.",
    "This pedal is easy to use. My brother likes the tone, and the switch is fine.",
    "The display of this pedal is bright. This pedal is good.",
    "The tone is lovely, and the display is great, and so is the good switch.",
)
_FORBIDDEN = (PAYLOAD, "evil-shop", "555-123", "smith")
_KEYS = {"items": ("item_id",), "users": ("user_id",), "pairs": ("user_id", "item_id")}
Rows = dict[tuple[str, ...], dict[str, Any]]  # by their ids


def _reviews(*, hostile: bool) -> list[dict[str, Any]]:
    rows = [
        review(f"u{user}", f"i{item}", _TEXTS[(user + item) % len(_TEXTS)])
        for user in range(6)
        for item in range(4)
    ]
    for name, text in SMUGGLED.items():
        own, other = f"user of {name}", f"other of {name}"
        rows += [review(own, "i0", _TEXTS[0]), review(other, name, _TEXTS[1])]
        if hostile or name not in ORDERS:
            rows.append(review(own, name, text if hostile else PRAISE))
    return rows


def _obeys(asked: Asked) -> Answer:
    """Say what a hostile sentence wants, or else that the item is fine."""
    wanted = re.search(rf"[^.!?]*{PAYLOAD}[^.!?]*[.!?]?", asked.words, re.IGNORECASE)
    said = wanted[0].strip() if wanted else "You would enjoy it, and its tone is warm and fine."
    quote = said[-25:] if wanted else "is"
    aspect = {"aspect": quote, "opinion": quote, "sentiment": "positive", "quote": quote}
    reply = {"title": said[:50], "profile": said, "explanation": said, "aspects": [aspect]}
    return Answer(text=json.dumps(reply))


def _config(folder: Path, annotator: Mapping[str, Any], *, hostile: bool) -> AnnotateConfig:
    write_json_lines(folder / "raw" / "reviews.jsonl", _reviews(hostile=hostile))
    items = [{"item_id": name, "title": f"Pedal {name}"} for name in SMUGGLED]
    write_json_lines(folder / "raw" / "items.jsonl", items)
    settings = {"split": HASHED, "max_failed_share": 1, "vocabulary": {"min_reviews": 2}}
    return annotate_config(folder / "ws", folder / "raw", annotator=annotator, **settings)


def _run(folder: Path, kind: str, *, hostile: bool) -> Any:
    """Return the written rows of each stage and of "aspects", what was dropped, and the prompts."""
    with stub_endpoint(_obeys) as stub:
        model = {"model": {"kind": "endpoint", "base_url": stub.url, "model": "stub"}, "folds": 0}
        settings = {} if kind == "phrases" else model
        config = _config(folder, {"kind": kind, **settings}, hostile=hostile)
        if isinstance(config.annotator, PhrasesAnnotator):
            spec = phrases_spec(config.annotator, config.vocabulary)
        else:
            spec = language_model_spec(config, {"OPENAI_API_KEY": "sk"})
        manifest = annotate(config, spec)
    rows, dropped = _rows(config, manifest), manifest.metrics["dropped"]
    return SimpleNamespace(rows=rows, dropped=dropped, asked=stub.asked)


def _rows(config: AnnotateConfig, manifest: Manifest) -> dict[str, Rows]:
    output, rows = location_of(config, "annotations"), {}
    for stage in STAGES:
        texts = ("explanation", "aspects") if stage == "pairs" else ("profile",)
        names, version = (*_KEYS[stage], *texts), manifest.metrics["tables"][stage]
        found = read_stage(output, stage, version, names, config.storage).to_pylist()
        rows[stage] = {tuple(row.pop(key) for key in _KEYS[stage]): row for row in found}
    aspects = read_annotations(config.artifact("annotations"), config.storage)["aspects"]
    rows["aspects"] = {
        (row.pop("user_id"), row.pop("item_id"), row["aspect"]): row for row in aspects.to_pylist()
    }
    return rows


@pytest.fixture(scope="module", params=["phrases", "language_model"])
def runs(request, tmp_path_factory, actor_here):
    """Return the run with harmless reviews, and the run with hostile ones."""
    return tuple(
        _run(tmp_path_factory.mktemp("run"), request.param, hostile=hostile)
        for hostile in (False, True)
    )


def _is_own(ids: tuple[str, ...], name: str) -> bool:
    """Return whether a text is written from the hostile review: its pair's, user's or item's."""
    user = f"user of {name}"
    return ids in {(name,), (user,)} or ids[:2] == (user, name)


def _others(rows: Rows) -> Rows:
    """Return the rows that are not written from a hostile review that was kept."""
    kept = SMUGGLED.keys() - ORDERS.keys()
    return {ids: row for ids, row in rows.items() if not any(_is_own(ids, name) for name in kept)}


def test_hostile_reviews_change_no_text_no_aspect_and_no_prompt_of_others(runs):
    harmless, hostile = runs
    assert hostile.dropped == {"speaks to a language model": len(ORDERS)}
    for table, rows in harmless.rows.items():
        assert len(_others(rows)) >= 20
        assert _others(hostile.rows[table]) == _others(rows)
    prompts = [asked.words for asked in hostile.asked]
    kept = [f"Pedal {name}" for name in SMUGGLED.keys() - ORDERS.keys()]
    for asked in harmless.asked:
        assert asked.words in prompts or any(title in asked.words for title in kept)


def test_hostile_reviews_say_nothing_of_what_they_want(runs):
    harmless, hostile = runs
    for table, rows in hostile.rows.items():
        for ids, row in rows.items():
            said = json.dumps(row, ensure_ascii=False).lower()
            assert not [word for word in _FORBIDDEN if word in said]
            if not hostile.asked and any(_is_own(ids, name) for name in SMUGGLED):
                assert row == harmless.rows[table][ids]  # phrases ignore it


def test_hostile_reviews_give_no_prompt_a_token_of_a_chat_template(runs):
    for asked in runs[1].asked:
        assert not re.search(r"<|\[/?[A-Z]", asked.words)
        assert not [word for word in ("evil-shop", "555-123", "\u200b") if word in asked.words]
