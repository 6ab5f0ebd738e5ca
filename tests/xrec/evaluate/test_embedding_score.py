"""On a small random BERT with a word-level tokenizer, against plain loops."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from xrec.evaluate.embedding_score import embedding_scores
from xrec.evaluate.encoder import TextEncoder

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "a", "mat", "dog", "ran"]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=12,
    )
    words = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    return TextEncoder(BertModel(config), tokenizer)


def _scores_by_loops(
    encoder: TextEncoder, text: str, reference: str
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
    for column, seen in enumerate((scores.precision, scores.recall, scores.f1, scores.cosine)):
        assert seen == pytest.approx([row[column] for row in expected], abs=1e-5)


def test_scores_of_equal_texts_are_one(encoder):
    scores = embedding_scores(
        encoder, ["the cat sat on a mat"], ["the cat sat on a mat"], batch_size=4
    )
    for values in (scores.precision, scores.recall, scores.f1, scores.cosine):
        assert values == pytest.approx([1.0], abs=1e-5)


def test_scores_of_an_empty_text_are_zero_and_leave_the_others_alone(encoder):
    alone = embedding_scores(encoder, ["the cat"], ["a dog ran"], batch_size=4)
    beside = embedding_scores(
        encoder, ["", "the cat", "the cat"], ["a dog ran", "a dog ran", ""], batch_size=4
    )
    for name in ("precision", "recall", "f1", "cosine"):
        zero, same, also_zero = getattr(beside, name)
        assert (zero, also_zero) == (0.0, 0.0)
        assert same == pytest.approx(getattr(alone, name)[0], abs=1e-5)


def test_texts_longer_than_the_encoder_are_cut_to_its_positions(encoder):
    assert encoder.encode(["cat " * 50]).token_vectors.shape == (1, 12, 16)


def test_scores_of_unequal_lengths_are_refused(encoder):
    with pytest.raises(ValueError, match="2 explanations and 1 references"):
        embedding_scores(encoder, ["a", "b"], ["a"], batch_size=2)
