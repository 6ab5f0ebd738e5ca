"""The embedding score of pairs: rescaled by its baseline, and by a layer of the encoder."""

import pytest
import torch

from tests.xrec.evaluate.test_encoder import encoder as encoder
from xrec.data.dataset import HeldOutPair
from xrec.errors import ModelError
from xrec.evaluate.encoder import TextEncoder, embedding_scores
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.lab.measures.embedding import EmbeddingScore

REFERENCES = ["the cat sat on a mat", "a dog", "the dog ran", "a mat"]
WRITTEN = ["a cat", "a dog ran on the mat", "", "a mat"]
TEXTS = ContestantTexts.of(
    [HeldOutPair(f"u{n}", "i", n, 0, text) for n, text in enumerate(REFERENCES)],
    {(f"u{n}", "i"): text for n, text in enumerate(WRITTEN)},
)


def test_embedding_score_is_rescaled_by_the_baseline_but_for_empty_texts(
    encoder: TextEncoder,
) -> None:
    plain = embedding_scores(encoder, list(TEXTS.texts), REFERENCES, batch_size=4)
    found = EmbeddingScore(encoder, (0.1, 0.2, 0.5), batch_size=4).of_pairs(TEXTS)
    for name, values, level in (
        ("precision", plain.precision, 0.1),
        ("recall", plain.recall, 0.2),
        ("f1", plain.f1, 0.5),
    ):
        expected = (values - level) / (1 - level)
        expected[2] = 0
        assert found[f"embedding_{name}"].tolist() == pytest.approx(expected.tolist())
    assert found["embedding_f1"][3] == pytest.approx(1)


def test_encoder_of_a_layer_gives_the_vectors_of_that_layer(encoder: TextEncoder) -> None:
    layer = TextEncoder(encoder.model, encoder.tokenizer, layer=1)
    ids = encoder.tokenizer(["the cat sat"], return_tensors="pt")
    with torch.no_grad():
        states = encoder.model(**ids, output_hidden_states=True).hidden_states
    expected = torch.nn.functional.normalize(states[1], dim=-1)
    found = layer.encode(["the cat sat"]).token_vectors
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(encoder.encode(["the cat sat"]).token_vectors, found)
    with pytest.raises(ModelError, match="no layer 3, the model has 2"):
        TextEncoder(encoder.model, encoder.tokenizer, layer=3)
