"""vLLM's check of a prompt's token ids, which ours must pass: users and items are ids above the
vocabulary. vLLM 0.33 refuses them always, so the extra `vllm` excludes it."""

from types import SimpleNamespace
from typing import Any

import pytest

input_processor: Any = pytest.importorskip(
    "vllm.v1.engine.input_processor",
    reason="vLLM is not installed here (the extra `vllm` brings it); its check is not tested",
)

VOCABULARY = 400


def _check(prompt: list[int], tokenizer: object) -> None:
    """Run vLLM's check on a prompt for a model with VOCABULARY tokens."""
    from vllm.inputs.engine import tokens_input

    processor = SimpleNamespace(
        model_config=SimpleNamespace(get_vocab_size=lambda: VOCABULARY),
        tokenizer=tokenizer,
        _validate_prompt_len=lambda length, kind: None,
    )
    input_processor.InputProcessor._validate_model_input(processor, tokens_input(prompt), "decoder")


def test_ids_above_the_vocabulary_pass_without_a_tokenizer() -> None:
    _check([1, VOCABULARY, VOCABULARY + 10], tokenizer=None)


def test_ids_above_the_vocabulary_are_refused_with_a_tokenizer() -> None:
    from vllm.exceptions import VLLMValidationError

    message = f"Token id {VOCABULARY + 10} is out of vocabulary"
    with pytest.raises(VLLMValidationError, match=message):
        _check([1, VOCABULARY + 10], tokenizer=SimpleNamespace(max_token_id=VOCABULARY - 1))


def test_no_other_check_of_token_ids_has_come() -> None:
    """vLLM 0.33 has one in its renderer, whether there is a tokenizer or not."""
    base: Any = pytest.importorskip("vllm.renderers.base")
    assert not hasattr(base.BaseRenderer, "validate_token_ids")
