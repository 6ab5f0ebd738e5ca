"""The measures of texts against references, and their statements against those of reviews."""

import math

import numpy as np
import pytest

from tests.world.town import dataset_of, held_out
from xrec.config import MetricsConfig
from xrec.data import HeldOutPair
from xrec.evaluate.measure import Measure, visible
from xrec.evaluate.text_metrics import overlap
from xrec.lab.measures.measures import (
    corpus_scores,
    load_scorer,
    measures_of,
)
from xrec.lab.measures.statements import (
    Statements,
    against_reference,
    aspects_named,
    statements_made,
)

WITHOUT_MODELS = MetricsConfig(encoder=None)
PAIRS = [
    HeldOutPair("u0", "i0", 0, 0, "you love the quiet garden"),
    HeldOutPair("u1", "i0", 1, 0, "you love the cheap beer"),
    HeldOutPair("u0", "i1", 0, 1, "you love the loud music"),
    HeldOutPair("u2", "i2", 2, 2, "nothing of note"),
]
DATASET = dataset_of(
    aspects=["garden", "beer", "music", "bread"], named=[(0, 0, 0), (0, 0, 3), (1, 0, 1), (0, 1, 2)]
)
TEXTS = {
    ("u0", "i0"): "you love the quiet garden",
    ("u1", "i0"): "you love the garden and the music",
    ("u2", "i2"): "beer",
}


ALL = [visible(TEXTS.get(pair.ids)) for pair in PAIRS]


def scores(measure: Measure, texts: list[str]) -> dict[str, np.ndarray]:
    names = [metric.name for metric in measure.metrics]
    return dict(zip(names, measure.load()(texts), strict=True))


def test_table_has_a_row_per_pair_and_a_missing_text_is_empty():
    table = load_scorer(measures_of(WITHOUT_MODELS, DATASET, PAIRS), PAIRS)(ALL)
    rows = table.to_pylist()
    assert [(row["user_id"], row["item_id"], row["text"]) for row in rows] == [
        (pair.user_id, pair.item_id, TEXTS.get((pair.user_id, pair.item_id), "")) for pair in PAIRS
    ]
    assert table["coverage"].to_pylist() == [1, 1, 0, 1]
    assert table["words"].to_pylist() == [5, 7, 0, 1]
    empty = rows[2]
    assert (empty["rouge_l"], rows[0]["rouge_l"]) == (0, 1)
    assert (empty["aspects_named"], empty["aspect_precision"], empty["fmr"]) == (0, 0, 0)
    # The second text has words of the first and the third reference, the last one of the second.
    assert table["specificity"].to_pylist() == [1, pytest.approx(1 / 3), 0.5, pytest.approx(1 / 3)]
    assert table["specificity_in_item"].to_pylist() == [1, 0, None, None]
    assert [visible(text) for text in (None, " \n", "\u200b", " a")] == ["", "", "", " a"]


def test_bleu_rouge_and_usr_equal_the_formulas_by_hand():
    def of(reference: str) -> list[HeldOutPair]:
        return [HeldOutPair("u0", "i0", 0, 0, reference)]

    # All n-grams are right; the text is half as long as its reference.
    half = corpus_scores(of("a b c d e f g h"), ["a b c d"])
    assert half["bleu"] == pytest.approx(100 / math.e)
    # Of 4 and 7 words, only "the" and "sat" are in both: words are not stemmed.
    unstemmed = scores(overlap(["the cat sat on a mat here"]), ["the cats sat there"])
    assert unstemmed["rouge_l"] == pytest.approx([4 / 11])
    usr = corpus_scores(PAIRS, ["a b", " a  b", "", ""])["usr"]
    assert usr == 2 / 4  # blanks do not matter, and empty texts are one


def test_aspects_against_the_reference_equal_the_formulas_by_hand():
    # "tone" at rank 2 of three is right; two were wanted: DCG 1 / log2(3), ideal 1 + 1 / log2(3).
    gain = 1 / np.log2(3)
    found = against_reference(["price", "tone", "case"], ["tone", "neck"])
    assert found == pytest.approx([1 / 3, 1 / 2, gain / (1 + gain)])
    assert against_reference([], ["tone"]).tolist() == [0, 0, 0]
    assert np.isnan(against_reference(["tone"], [])).all()
    wanted = [f"a{number}" for number in range(12)]
    precision, recall, ndcg = against_reference([*"qwertyuiop", "a0"], wanted)
    assert (precision, recall, ndcg) == (1 / 11, 1 / 12, 0)  # beyond the tenth nothing is gained
    assert against_reference(wanted, wanted)[2] == pytest.approx(1)


# Statements

REVIEWED = held_out((0, 0), (1, 0), (0, 1), (2, 2))
REVIEWS = dataset_of(
    aspects=["garden", "service", "beer", "wine list", "gardens"],
    named=[
        *((0, 0, 0, "positive", "quiet"), (0, 0, 1, "negative", ""), (0, 0, 2, "neutral", "")),
        *((1, 0, 4, "positive", ""), (0, 1, 2, "neutral", "")),
    ],
    trained=[
        *((0, 1, 0), (1, 1, 0), (1, 1, 4), (2, 1, 0, "negative"), (2, 1, 2, "neutral")),
        *((2, 0, 1, "negative"), (0, 2, 3)),
    ],
)
STATEMENTS = Statements(REVIEWS, REVIEWED)
GARDEN, BLAMED = ("garden", "positive"), ("garden", "negative")
SERVICE, WINE = ("service", "negative"), ("wine list", "positive")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("You would enjoy the beer, and the garden.", [("beer", "+"), ("garden", "+")]),
        ("The service is terrible, but it has a garden.", [("service", "-"), ("garden", "+")]),
        ("Gardens, a garden, more gardens!", [("garden", "+")]),
        ("There is an awful wine list.", [("wine list", "-")]),
        ("Nothing of all that.", []),
    ],
)
def test_statements_of_a_text_are_praise_unless_it_blames_and_name_each_aspect_once(text, expected):
    signs = {"positive": "+", "negative": "-"}
    found = [(each.aspect, signs[each.sentiment]) for each in STATEMENTS.of_text(text)]
    assert found == expected


def test_statements_of_reviews_merge_forms_of_an_aspect_and_count_training_only():
    of_reviews = [STATEMENTS.of_reference(pair) for pair in REVIEWED]
    assert of_reviews == [[GARDEN, SERVICE], [GARDEN], [], []]
    assert STATEMENTS.of_items[1] == {GARDEN: 3, BLAMED: 1}
    assert STATEMENTS.of_items[0] == {SERVICE: 1}
    assert STATEMENTS.of_users[2] == {BLAMED: 1, SERVICE: 1}
    assert STATEMENTS.of_users[0] == {GARDEN: 1, WINE: 1}
    assert STATEMENTS.of_all == {GARDEN: 3, BLAMED: 1, SERVICE: 1, WINE: 1}


def test_statements_match_by_aspect_and_sentiment_but_aspects_by_name():
    beer, nan = "You will like the beer.", np.nan
    texts = ["You will like the garden, the beer and the service.", "", beer, beer]
    measures = (make(lambda: STATEMENTS, REVIEWED) for make in (statements_made, aspects_named))
    found = {
        name: column for measure in measures for name, column in scores(measure, texts).items()
    }
    # Of the first text one statement of three is right, and one of two is found. Spoken of, but
    # not ill: garden and beer | garden | beer | nothing.
    assert set(found) >= {"statement_f1", "aspect_f1"}
    for name, expected in {
        "statement_precision": [1 / 3, 0, nan, nan],
        "statement_recall": [1 / 2, 0, nan, nan],
        "statement_f1": [2 / 5, 0, nan, nan],
        "aspects_named": [3, 0, 1, 1],
        "aspect_precision": [2 / 3, 0, 1, nan],
        "aspect_recall": [1, 0, 1, nan],
        "aspect_f1": [4 / 5, 0, 1, nan],
        "fmr": [1, 0, 1, nan],
    }.items():
        assert found[name] == pytest.approx(expected, nan_ok=True), name
