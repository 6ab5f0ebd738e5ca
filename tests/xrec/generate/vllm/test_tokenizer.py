"""vLLM's tokenizer lets ids of users and items pass, however vLLM copies it."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.toy import toy_tokenizer

pytest.importorskip("vllm", reason="vLLM is not installed here (the extra `vllm` brings it)")


@pytest.mark.parametrize(
    "copied",
    [lambda one: one, copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))],
)
def test_tokenizer_and_its_copies_have_all_ids_and_the_words_of_the_base(
    tmp_path: Path, copied: Any
) -> None:
    from vllm.tokenizers.hf import maybe_make_thread_pool

    from xrec.generate.vllm.tokenizer import CollaborativeTokenizer

    toy_tokenizer().save_pretrained(tmp_path)
    tokenizer = copied(CollaborativeTokenizer.from_pretrained(tmp_path))
    pooled = copy.copy(tokenizer)
    maybe_make_thread_pool(pooled)
    for one in (tokenizer, pooled):
        assert one.max_token_id == 2**31 - 1
        assert one.encode("You will like it.") == toy_tokenizer().encode("You will like it.")
        assert one.get_vocab() == toy_tokenizer().get_vocab()
