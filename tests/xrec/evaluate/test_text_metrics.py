import math
from itertools import combinations

import numpy as np
import pytest

from xrec.evaluate.text_metrics import (
    corpus_bleu,
    distinct_words,
    empty_share,
    frequent_words_share,
    num_words,
    rouge_l,
    share_nearer,
    share_over,
    specificity,
    unique_sentence_ratio,
)

REFERENCE = "the cat sat on the mat today"


def test_bleu_of_equal_texts_is_100_and_of_foreign_texts_near_0():
    assert corpus_bleu([REFERENCE], [REFERENCE]) == pytest.approx(100.0)
    assert corpus_bleu(["one two three four five six seven"], [REFERENCE]) < 10.0


def test_bleu_of_one_wrong_word_equals_the_formula_by_hand():
    # The last word is wrong: n-gram precisions are 6/7, 5/6, 4/5, 3/4. Lengths are equal.
    expected = 100 * math.exp(sum(math.log(p) for p in (6 / 7, 5 / 6, 4 / 5, 3 / 4)) / 4)
    assert corpus_bleu(["the cat sat on the mat yesterday"], [REFERENCE]) == pytest.approx(expected)


def test_rouge_l_of_each_pair_is_f1_of_the_longest_common_subsequence():
    # LCS "the sat mat": 3 of 4 words of the text, 3 of 7 of the reference.
    precision, recall = 3 / 4, 3 / 7
    scores = rouge_l(["the dog sat mat", REFERENCE, ""], [REFERENCE] * 3)
    assert scores == pytest.approx([2 * precision * recall / (precision + recall), 1.0, 0.0])


def test_unique_sentence_ratio_counts_distinct_over_all():
    assert unique_sentence_ratio(["a", "a", "b", "c"]) == 0.75


def test_lengths_count_words_and_shares_are_strict():
    texts = ["w " * 51, "w " * 50, "  ", ""]
    assert num_words(texts).tolist() == [51, 50, 0, 0]
    assert share_over(texts, max_words=50) == 0.25
    assert empty_share(texts) == 0.5


def test_specificity_of_copied_swapped_and_empty_texts_is_1_0_and_a_half():
    references = ["a quiet lake", "a loud market", "a steep hill"]
    texts = ["the lake is quiet", "a quiet lake", ""]
    # The second copies another's reference: of the two others it is nearer to the first, and its
    # own is as near as the third, which shares "a" alone and is as long.
    assert specificity(texts, references).tolist() == [1.0, 0.25, 0.5]


def test_share_nearer_counts_ties_half_and_only_the_others_asked_for():
    similarities = np.array([[0.5, 0.5, 0.9], [0.1, 0.2, 0.0], [0.3, 0.3, 0.3]])
    others = np.array([[0, 1, 1], [1, 0, 1], [0, 0, 0]], dtype=bool)
    assert share_nearer(similarities, others) == pytest.approx([0.25, 1.0, np.nan], nan_ok=True)


def test_distinct_words_equal_the_mean_over_all_draws_by_hand():
    texts = ["red red door", "Red window", "blue roof", "roof of red tin", ""]
    draws = [
        len({word for text in drawn for word in text.lower().split()})
        for drawn in combinations(texts, 3)
    ]
    assert distinct_words(texts, 3) == pytest.approx(np.mean(draws))
    assert distinct_words(texts, 5) == 7


def test_distinct_words_of_too_few_texts_are_refused():
    with pytest.raises(ValueError, match="2 texts; expected 3 or more"):
        distinct_words(["a", "b"], 3)


def test_frequent_words_share_is_that_of_all_running_words():
    assert frequent_words_share(["a a b", "A c d e"], num_words=1) == 3 / 7
    assert frequent_words_share(["a b", "c"], num_words=5) == 1
    assert frequent_words_share(["", " "]) == 0


@pytest.mark.parametrize("metric", [corpus_bleu, rouge_l, specificity])
def test_reference_metrics_of_unequal_lengths_are_refused(metric):
    with pytest.raises(ValueError, match="2 explanations and 1 references"):
        metric(["a", "b"], ["a"])


def test_share_of_no_texts_is_refused():
    with pytest.raises(ValueError, match="no texts"):
        unique_sentence_ratio([])
