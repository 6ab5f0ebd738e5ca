import math

import numpy as np
import pytest

from xrec.lab.measures.specificity import share_nearer
from xrec.lab.measures.tf_idf import TfIdf


def test_similarities_of_two_texts_equal_the_formula_by_hand():
    # "lake" is in both known texts: ln(3/3) + 1 = 1. "view" and "fish" are in one: ln(3/2) + 1.
    rare = math.log(3 / 2) + 1
    found = TfIdf(["Lake view", "lake fish"]).similarities(
        ["the lake, the LAKE: fish!", "view"], ["lake view", "lake fish"]
    )
    # The first text has the weights lake 2, fish `rare`; "the" is not known.
    length, known = math.hypot(2, rare), math.hypot(1, rare)
    expected = [[2 / (length * known), (2 + rare**2) / (length * known)], [rare / known, 0]]
    assert found.tolist() == [pytest.approx(row) for row in expected]


def test_similarity_of_a_text_without_known_words_is_0():
    assert TfIdf(["lake view"]).similarities(["", "moon"], ["lake", ""]).tolist() == [[0, 0]] * 2


def test_weights_of_texts_without_words_are_refused():
    with pytest.raises(ValueError, match="2 texts without a word"):
        TfIdf(["", "!"])


def test_share_nearer_counts_ties_half_and_only_the_others_asked_for() -> None:
    similarities = np.array([[0.5, 0.5, 0.9], [0.1, 0.2, 0.0], [0.3, 0.3, 0.3]])
    others = np.array([[0, 1, 1], [1, 0, 1], [0, 0, 0]], dtype=bool)
    assert share_nearer(similarities, others) == pytest.approx([0.25, 1.0, np.nan], nan_ok=True)
