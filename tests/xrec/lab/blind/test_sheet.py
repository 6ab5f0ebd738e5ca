"""The blind sheet: whose texts they are stands in the key and nowhere on the page."""

import html
import json
from pathlib import Path
from typing import Any

import pytest

from tests.xrec.lab.small import dataset_of, held_out
from xrec.config.entries import BlindSheetConfig
from xrec.errors import ArtifactNotFoundError
from xrec.lab.blind.sheet import (
    Sheet,
    make_sheet,
    page_of,
    read_sheet,
    write_sheet,
)
from xrec.storage import open_location

PAIRS = held_out(*((user, item) for user in range(3) for item in range(3)))
WORDS = {"ours": "Alpha", "nearest": "Beta", "att2seq": "Gamma"}
"""A word that stands for the entry and does not name it."""
NAMES = tuple(WORDS)


def texts_of(name: str) -> dict[tuple[str, str], str | None]:
    return {
        (pair.user_id, pair.item_id): f"{WORDS[name]} about {pair.user_id} {pair.item_id}"
        for pair in PAIRS
    }


def sheet(seed: int = 0, num_pairs: int = 5, **config: Any) -> Sheet:
    return make_sheet(
        BlindSheetConfig(num_pairs=num_pairs, **config),
        dataset_of(profiles=["Quiet & <b>cosy</b>.", "Loud.", "Old."]),
        PAIRS,
        {name: texts_of(name) for name in NAMES},
        seed=seed,
    )


def test_sheet_has_all_entries_texts_of_each_pair_in_an_order_of_its_own() -> None:
    made = sheet()
    assert len(made.pairs) == 5
    for pair in made.pairs:
        assert set(pair.entries) == set(NAMES)
        for name, text in zip(pair.entries, pair.texts, strict=True):
            assert text == texts_of(name)[pair.user_id, pair.item_id]
    assert len({pair.entries for pair in made.pairs}) > 1


def test_order_is_even_over_many_sheets() -> None:
    first = [pair.entries[0] for seed in range(60) for pair in sheet(seed).pairs]
    # 300 draws of one in three: 100 each, with a standard deviation of 8.
    assert all(65 < first.count(name) < 135 for name in NAMES)


def test_sheet_is_the_same_for_a_seed_and_differs_for_another() -> None:
    assert sheet(3).fingerprint == sheet(3).fingerprint
    assert len({sheet(seed).fingerprint for seed in range(5)}) == 5


def test_page_does_not_say_whose_a_text_is() -> None:
    page = page_of(sheet())
    assert "Alpha about" in page
    assert not [name for name in NAMES if name in page]


def test_page_escapes_texts_and_fetches_nothing() -> None:
    page = page_of(sheet(num_pairs=9))
    assert "<b>cosy</b>" not in page
    assert html.escape("Quiet & <b>cosy</b>.") in page
    assert "http:" not in page
    assert "https:" not in page
    assert "default-src 'none'" in page


def test_page_asks_each_question_of_each_text_once() -> None:
    made = sheet(num_pairs=2, questions={"true": "Is it true?", "good": "Is it good?"})
    page = page_of(made)
    for pair in (1, 2):
        for place in (1, 2, 3):
            for question in ("true", "good"):
                assert page.count(f'name="{pair}/{place}/{question}"') == 5  # ratings 1 to 5


def test_items_profile_does_not_stand_above_its_own_text() -> None:
    dataset, config = dataset_of(profiles=["Old.", "New.", "Odd."]), BlindSheetConfig(num_pairs=3)
    texts = {name: texts_of("ours") for name in ("ours", "profile")}
    with_it = make_sheet(config, dataset, PAIRS, texts, seed=0)
    without = make_sheet(config, dataset, PAIRS, {"ours": texts["ours"]}, seed=0)
    assert {pair.item_profile for pair in with_it.pairs} == {""}
    assert "" not in {pair.item_profile for pair in without.pairs}


def test_missing_text_is_shown_as_missing() -> None:
    texts = {name: dict.fromkeys(texts_of(name), None) for name in NAMES}
    made = make_sheet(BlindSheetConfig(num_pairs=1), dataset_of(), PAIRS, texts, seed=0)
    assert page_of(made).count("(no text)") == 3


def test_sheet_is_read_back_by_its_key(tmp_path: Path) -> None:
    location, made = open_location(str(tmp_path)), sheet()
    write_sheet(location, made)
    assert read_sheet(location) == made
    assert json.loads((tmp_path / "key.json").read_text())["sheet"] == made.fingerprint
    with pytest.raises(ArtifactNotFoundError, match=r"blind_sheet\.num_pairs=N"):
        read_sheet(location / "elsewhere")
