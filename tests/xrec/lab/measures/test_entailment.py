"""Entailment by a small random BERT, which is saved and loaded as one of the hub is."""

from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

from tests.word_bert import bert_config, word_tokenizer
from tests.xrec.lab.small import dataset_of, held_out
from xrec.config.evaluate import MetricsConfig
from xrec.errors import ModelError
from xrec.lab.measures.entailment import EntailmentModel, sentence_of
from xrec.lab.measures.measure import ScoredTexts
from xrec.lab.measures.measures import describe_metrics, load_measures, metrics_identity
from xrec.lab.measures.statements import Statement

WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "user", "may", "would", "dislike", "that"),
    *("because", "its", "tone", "fit", "is", "good", "bad"),
]
STATEMENTS = [
    Statement("tone", "positive"),
    Statement("fit", "negative", "too tight"),
    Statement("tone", "negative", "bad"),
]


def save_model(folder: Path, labels: list[str]) -> str:
    config = bert_config(
        WORDS, max_position_embeddings=40, initializer_range=0.5, id2label=dict(enumerate(labels))
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    word_tokenizer(WORDS).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    labels = ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"]
    return save_model(tmp_path_factory.mktemp("nli") / "small-nli", labels)


def test_entailment_of_many_couples_is_that_of_each_one_alone(folder, monkeypatch):
    monkeypatch.setattr("xrec.lab.measures.entailment._COUPLES_AT_ONCE", 2)
    couples = [(a, b) for a in STATEMENTS for b in STATEMENTS]
    found = EntailmentModel(folder)(couples)
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    alone = []
    for premise, hypothesis in couples:
        batch = tokenizer(sentence_of(premise), sentence_of(hypothesis), return_tensors="pt")
        with torch.no_grad():
            exponentials = model(**batch).logits[0].exp()
        alone.append(float(exponentials[2] / exponentials.sum()))
    assert found == pytest.approx(alone, abs=1e-5)
    assert len({round(each, 3) for each in alone}) > 5  # the order of the two matters
    assert EntailmentModel(folder)([]).shape == (0,)


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        (STATEMENTS[0], "The user would appreciate this item because its tone is good."),
        (STATEMENTS[1], "The user may dislike that its fit is too tight."),
        (Statement("fit", "negative"), "The user may dislike that its fit is bad."),
    ],
)
def test_sentence_of_a_statement_says_its_opinion(statement, sentence):
    assert sentence_of(statement) == sentence


def test_model_without_the_label_or_not_there_is_refused(tmp_path):
    stars = save_model(tmp_path / "stars", ["1 star", "2 stars", "3 stars"])
    with pytest.raises(ModelError, match="labels 1 star, 2 stars, 3 stars, and none is entailment"):
        EntailmentModel(stars)
    with pytest.raises(ModelError, match="no such local folder"):
        EntailmentModel(str(tmp_path / "nowhere"))


def test_measures_have_the_metrics_of_the_configured_model(folder):
    pairs = held_out((0, 0), (1, 0))
    dataset = dataset_of(aspects=["tone", "fit"], named=[(0, 0, 0), (0, 0, 1, "negative", "loose")])
    config = MetricsConfig(encoder=None, entailment=folder)
    texts = ScoredTexts(tuple(pairs), ("A lovely tone.", "A lovely tone."))
    table = load_measures(config, dataset, pairs, device="cpu").of_pairs(texts)
    lovely, good = Statement("tone", "positive", "lovely"), Statement("tone", "positive")
    loose = Statement("fit", "negative", "loose")
    precision = max(EntailmentModel(folder)([(good, lovely), (loose, lovely)]))
    assert table["entailed_precision"].to_pylist() == [pytest.approx(precision), None]
    infos = describe_metrics(config, dataset)
    assert infos["entailed_f1"].label == "Statements by small-nli, F1"
    without = describe_metrics(MetricsConfig(encoder=None), dataset)
    assert set(infos) - set(without) == {
        f"entailed_{part}" for part in ("precision", "recall", "f1")
    }
    assert metrics_identity(config) != metrics_identity(MetricsConfig(encoder=None))
