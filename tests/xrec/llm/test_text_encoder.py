"""Texts whose words look like special tokens stay words."""

import copy
import gc
import tracemalloc

import pytest

from tests.toy import toy_tokenizer
from xrec.llm.text_encoder import TextEncoder


def test_text_encoder_leaves_the_settings_of_the_tokenizer_that_others_use():
    tokenizer = copy.deepcopy(toy_tokenizer())
    encoder = TextEncoder(tokenizer)
    encoder.encode("<|im_end|>").append(7)  # the list is the caller's own
    assert tokenizer.decode(encoder.encode("<|im_end|>")) == "<|im_end|>"
    assert not tokenizer.backend_tokenizer.encode_special_tokens
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in tokenizer.encode("<|im_end|>")


@pytest.mark.parametrize(("num_texts", "num_characters"), [(1500, 5), (40, 4000)])
def test_text_encoder_keeps_short_and_long_texts_within_its_bytes(num_texts, num_characters):
    max_bytes = 200_000
    encoder = TextEncoder(toy_tokenizer(), max_kept_bytes=max_bytes)
    encoder.encode("first")
    tracemalloc.start()
    for number in range(num_texts):
        encoder.encode((f"{number:05}" * num_characters)[:num_characters])
    gc.collect()
    num_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.5 * max_bytes < num_bytes < 1.1 * max_bytes
