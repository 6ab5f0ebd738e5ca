"""Pairs without a text count as empty ones; texts of other pairs are passed over."""

import numpy as np
import pytest

from xrec.data.dataset import HeldOutPair
from xrec.errors import DataError
from xrec.lab.measures.contestant_texts import ContestantTexts

PAIRS = [HeldOutPair(user, item, 0, 0, f"{user}{item}") for user, item in ("ax", "ay", "bx", "by")]


def test_pairs_without_a_text_have_an_empty_one_and_count_in_the_coverage() -> None:
    texts = ContestantTexts.of(
        PAIRS, {("b", "x"): "good", ("a", "x"): None, ("a", "y"): " \n", ("c", "z"): "of no pair"}
    )
    assert texts.texts == ("", "", "good", "")
    assert texts.has_text.tolist() == [False, False, True, False]
    assert texts.coverage == 0.25
    assert (texts.references, texts.users) == (["ax", "ay", "bx", "by"], ["a", "a", "b", "b"])


def test_some_of_the_pairs_are_chosen_by_mask_or_by_place() -> None:
    texts = ContestantTexts.of(PAIRS, {("b", "x"): "good"})
    for rows in (np.array([False, True, True, False]), [1, 2]):
        chosen = texts.of_rows(rows)
        assert ([pair.item_id for pair in chosen.pairs], chosen.texts) == (["y", "x"], ("", "good"))
    assert len(texts.of_rows(np.zeros(4, dtype=bool))) == 0


def test_a_contestant_that_wrote_nothing_at_all_is_scored() -> None:
    assert ContestantTexts.of(PAIRS, {}).coverage == 0


def test_no_pairs_are_refused() -> None:
    with pytest.raises(DataError, match="no reference is there; choose another split"):
        ContestantTexts.of([], {})
