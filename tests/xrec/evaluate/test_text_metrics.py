import math

import pytest

from xrec.evaluate.text_metrics import (
    corpus_bleu,
    empty_share,
    num_words,
    rouge_l,
    share_over,
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


@pytest.mark.parametrize("metric", [corpus_bleu, rouge_l])
def test_reference_metrics_of_unequal_lengths_are_refused(metric):
    with pytest.raises(ValueError, match="2 explanations and 1 references"):
        metric(["a", "b"], ["a"])


def test_share_of_no_texts_is_refused():
    with pytest.raises(ValueError, match="no texts"):
        unique_sentence_ratio([])
