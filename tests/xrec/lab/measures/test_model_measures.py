"""BARTScore, BLEURT and the rescaled embedding score on tiny random models, text by text."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from xrec.config.metrics import CheckpointConfig
from xrec.data.held_out import HeldOutPair
from xrec.errors import ModelError
from xrec.evaluate.embedding_score import embedding_scores
from xrec.evaluate.encoder import TextEncoder
from xrec.lab.measures.bart_score import BartScore
from xrec.lab.measures.bleurt import Bleurt
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.lab.measures.embedding import EmbeddingScore

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [*SPECIAL, "the", "cat", "sat", "on", "a", "mat", "dog", "ran"]
REFERENCES = ["the cat sat on a mat", "a dog", "the dog ran", "a mat"]
WRITTEN = ["a cat", "a dog ran on the mat", "", "a mat"]
TEXTS = ContestantTexts.of(
    [HeldOutPair(f"u{n}", "i", n, 0, text) for n, text in enumerate(REFERENCES)],
    {(f"u{n}", "i"): text for n, text in enumerate(WRITTEN)},
)
SETTINGS = {"cache_dir": None, "device": "cpu", "batch_size": 3}
SIZES = {"vocab_size": len(WORDS), "max_position_embeddings": 24, "pad_token_id": 0}


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    inputs = ["input_ids", "token_type_ids", "attention_mask"]  # as a BERT's
    return PreTrainedTokenizerFast(
        tokenizer_object=words, model_max_length=24, model_input_names=inputs, **names
    )


def _ids(text: str) -> list[int]:
    return [2, *(WORDS.index(word) for word in text.split()), 3]


@pytest.fixture
def bert() -> BertConfig:
    torch.manual_seed(0)
    return BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=1,
        initializer_range=0.5,
        **SIZES,
    )


def test_bart_score_is_the_mean_log_likelihood_of_each_text_after_the_other(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BartConfig(
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=3,
        **SIZES,
    )
    model = BartForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    _tokenizer().save_pretrained(tmp_path)

    def by_hand(source: str, target: str) -> float:
        """One text at a time: token t after the tokens before it, which begin with the start."""
        ids = _ids(target)
        with torch.no_grad():
            logits = model(
                input_ids=torch.tensor([_ids(source)]),
                decoder_input_ids=torch.tensor([[3, *ids[:-1]]]),
            ).logits[0]
        return float(np.mean([logits[t].log_softmax(-1)[ids[t]].item() for t in range(len(ids))]))

    found = BartScore(CheckpointConfig(source=str(tmp_path)), **SETTINGS).of_pairs(TEXTS)
    precision = [by_hand(*texts) for texts in zip(REFERENCES, WRITTEN, strict=True)]
    recall = [by_hand(*texts) for texts in zip(WRITTEN, REFERENCES, strict=True)]
    assert found["bart_score_precision"].tolist() == pytest.approx(precision, abs=1e-5)
    assert found["bart_score_recall"].tolist() == pytest.approx(recall, abs=1e-5)
    expected = np.mean([precision, recall], axis=0).tolist()
    assert found["bart_score_f1"].tolist() == pytest.approx(expected, abs=1e-5)


def test_bart_score_by_a_model_with_relative_positions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(WORDS),
            d_model=16,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            pad_token_id=0,
            decoder_start_token_id=0,
        )
    ).save_pretrained(tmp_path)
    _tokenizer().save_pretrained(tmp_path)
    found = BartScore(CheckpointConfig(source=str(tmp_path)), **SETTINGS).of_pairs(TEXTS)
    assert np.isfinite(found["bart_score_f1"]).all()


def test_bleurt_is_the_output_for_reference_and_text_in_two_segments(
    tmp_path: Path, bert: BertConfig
) -> None:
    model = BertForSequenceClassification(bert).eval()
    model.save_pretrained(tmp_path)
    _tokenizer().save_pretrained(tmp_path)

    def by_hand(reference: str, text: str) -> float:
        first, second = _ids(reference), _ids(text)[1:]
        with torch.no_grad():
            return model(
                input_ids=torch.tensor([[*first, *second]]),
                token_type_ids=torch.tensor([[0] * len(first) + [1] * len(second)]),
            ).logits.item()

    found = Bleurt(CheckpointConfig(source=str(tmp_path)), **SETTINGS).of_pairs(TEXTS)["bleurt"]
    expected = [by_hand(*texts) for texts in zip(REFERENCES, WRITTEN, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_classifier_of_several_classes_is_no_bleurt(tmp_path: Path, bert: BertConfig) -> None:
    bert.num_labels = 3
    BertForSequenceClassification(bert).save_pretrained(tmp_path)
    _tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a classifier of 3 classes; expected one output"):
        Bleurt(CheckpointConfig(source=str(tmp_path)), **SETTINGS)


def test_embedding_score_is_rescaled_by_the_baseline_but_for_empty_texts(bert: BertConfig) -> None:
    encoder = TextEncoder(BertModel(bert), _tokenizer())
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


def test_encoder_of_a_layer_gives_the_vectors_of_the_model_that_is_cut_there(
    bert: BertConfig,
) -> None:
    model = BertModel(bert)
    whole, layer = TextEncoder(model, _tokenizer()), TextEncoder(model, _tokenizer(), layer=1)
    with_layer = layer.encode(["the cat sat"])
    assert not torch.allclose(whole.encode(["the cat sat"]).token_vectors, with_layer.token_vectors)
    model.encoder.layer = model.encoder.layer[:1]
    cut = model(input_ids=torch.tensor([_ids("the cat sat")])).last_hidden_state
    cut = cut / cut.norm(dim=-1, keepdim=True)
    assert torch.allclose(with_layer.token_vectors, cut, atol=1e-6)


def test_encoder_without_that_layer_is_refused(bert: BertConfig) -> None:
    with pytest.raises(ModelError, match="no layer 3, the model has 2"):
        TextEncoder(BertModel(bert), _tokenizer(), layer=3)
