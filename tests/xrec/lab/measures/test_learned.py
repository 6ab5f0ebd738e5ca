"""BARTScore and BLEURT with tiny random models, against loops over single texts."""

import numpy as np
import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertForSequenceClassification,
    PreTrainedModel,
)

from tests.errors import raises
from tests.world.models import bert_config, word_tokenizer
from xrec.errors import ModelError
from xrec.lab.measures.learned import bart_score, bleurt

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "a", "mat"]
TEXTS = ["the cat", "a mat sat on the cat", ""]
REFERENCES = ["the cat sat on a mat", "a cat", "the mat"]


def save(folder, model: PreTrainedModel) -> str:
    model.save_pretrained(folder)
    word_tokenizer(WORDS).save_pretrained(folder)
    return str(folder)


def ids(text: str) -> list[int]:
    return [2, *(WORDS.index(word) for word in text.split()), 3]


def test_bart_score_is_the_mean_log_likelihood_of_the_references_tokens(tmp_path):
    torch.manual_seed(0)
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "init_std": 1.0}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    widths = {"encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "max_position_embeddings": 32}
    config = BartConfig(vocab_size=len(WORDS), **sizes, **heads, **tokens, **widths)
    model = BartForConditionalGeneration(config).eval()
    (found,) = bart_score(save(tmp_path, model), REFERENCES, "cpu").load()(TEXTS)
    for score, text, reference in zip(found, TEXTS, REFERENCES, strict=True):
        wanted = ids(reference)
        with torch.no_grad():
            logits = model(
                input_ids=torch.tensor([ids(text)]),
                decoder_input_ids=torch.tensor([[3, *wanted[:-1]]]),
            ).logits[0]
        log_p = logits.log_softmax(-1)
        expected = np.mean([log_p[place, token].item() for place, token in enumerate(wanted)])
        assert score == pytest.approx(expected, rel=1e-4)


def test_bleurt_is_the_output_for_reference_and_text_and_needs_one_output(tmp_path):
    torch.manual_seed(0)
    config = bert_config(WORDS, max_position_embeddings=32)
    config.num_labels = 1
    model = BertForSequenceClassification(config).eval()
    (found,) = bleurt(save(tmp_path / "one", model), REFERENCES, "cpu").load()(TEXTS)
    for score, text, reference in zip(found, TEXTS, REFERENCES, strict=True):
        encoded = word_tokenizer(WORDS)([reference], [text], return_tensors="pt")
        with torch.no_grad():
            assert score == pytest.approx(model(**encoded).logits.item(), rel=1e-4)
    config.num_labels = 2
    two = save(tmp_path / "two", BertForSequenceClassification(config))
    for make in (bleurt, bart_score):
        with raises(ModelError, "model_not_loadable"):
            make(two, REFERENCES, "cpu").load()
