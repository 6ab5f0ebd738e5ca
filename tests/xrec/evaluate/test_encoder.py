"""The encoder, and scores on a small random BERT with a word-level tokenizer, by plain loops."""

import numpy as np
import pytest
import torch
from transformers import BertModel

from tests.world.models import bert_config, word_tokenizer
from xrec.errors import ModelError
from xrec.evaluate.encoder import SentenceEncoder, embedding_scores, load_encoder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "a", "mat", "dog", "ran"]


@pytest.fixture(scope="module")
def encoder():
    config = bert_config(WORDS, max_position_embeddings=12)
    return SentenceEncoder(BertModel(config), word_tokenizer(WORDS))


def _scores_by_loops(
    encoder: SentenceEncoder, text: str, reference: str
) -> tuple[float, float, float, float]:
    """BERTScore's equation and the mean-pooled cosine, by one text and one token pair at a time."""
    vectors = []
    for one in (text, reference):
        ids = torch.tensor([[2, *(WORDS.index(word) for word in one.split()), 3]])
        vectors.append(encoder.model(input_ids=ids).last_hidden_state[0].detach().numpy())
    tokens = [v[1:-1] / np.linalg.norm(v[1:-1], axis=1, keepdims=True) for v in vectors]
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors]  # with [CLS], [SEP]
    precision = float(np.mean([max(float(x @ y) for y in unit[1]) for x in tokens[0]]))
    recall = float(np.mean([max(float(x @ y) for x in unit[0]) for y in tokens[1]]))
    left, right = (v.mean(axis=0) for v in vectors)
    cosine = float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)))
    return precision, recall, 2 * precision * recall / (precision + recall), cosine


def test_scores_in_padded_batches_equal_the_equation_in_loops(encoder):
    texts = ["the cat sat", "a dog ran on the mat", "the mat", "a dog"]
    references = ["the cat sat on a mat", "a dog", "the dog ran", "the cat sat on the mat"]
    scores = embedding_scores(encoder, texts, references, batch_size=3)
    expected = [
        _scores_by_loops(encoder, text, reference)
        for text, reference in zip(texts, references, strict=True)
    ]
    for column, seen in enumerate(scores):
        assert seen == pytest.approx([row[column] for row in expected], abs=1e-5)
    equal = embedding_scores(encoder, ["the cat sat"], ["the cat sat"], batch_size=4)
    assert equal[2:] == pytest.approx(np.ones((2, 1)), abs=1e-5)


def test_scores_of_an_empty_text_are_zero_and_leave_the_others_alone(encoder):
    alone = embedding_scores(encoder, ["the cat"], ["a dog ran"], batch_size=4)
    texts, references = ["", "the cat", "the cat"], ["a dog ran", "a dog ran", ""]
    found = embedding_scores(encoder, texts, references, batch_size=4)
    for column, (score,) in zip(found, alone, strict=True):
        assert column == pytest.approx([0.0, score, 0.0], abs=1e-5)


@pytest.mark.parametrize(
    "source",
    [
        *("pypi:no-such-encoder", "pypi:../etc", "pypi:torch==2", "pypi:PyYAML"),
        *("/no/such/folder", "s3://bucket/encoder", "{empty}", "{broken}"),
    ],
)
def test_encoder_that_cannot_be_had_is_a_model_error(source, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    config = '{"model_type": "bert", "hidden_size": 8, "num_attention_heads": 1}'
    (tmp_path / "broken" / "config.json").write_text(config)
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ModelError):
        load_encoder(source.format(empty=tmp_path / "empty", broken=tmp_path / "broken"))
