"""Which versions of vLLM are refused, and why: ids of users and items are not in its vocabulary.

vLLM need not be installed for these tests.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch

from tests.toy import NUM_ITEMS, NUM_USERS, toy_tokenizer
from tests.xrec.generate.vllm.vllm_town import V, make_adapter, make_graph
from xrec.config.prompt import PromptConfig
from xrec.errors import ModelError
from xrec.generate.engine import prompt_failure
from xrec.generate.vllm.version import check_vllm_version
from xrec.llm.collaborative import Vocabulary
from xrec.llm.prompt import PairTexts, PromptBuilder

TEXTS = PairTexts(user_profile="Likes gardens.", item_title="Luna", item_profile="A cafe.")


@pytest.mark.parametrize("version", ["0.30.0", "0.30.1+cpu", "0.31.0", "0.32.0", "0.32.1.dev3+g12"])
def test_check_vllm_version_that_is_known_passes(version: str) -> None:
    check_vllm_version(version)


@pytest.mark.parametrize("version", ["0.33.0", "0.33.0rc1", "0.34.2+cpu", "0.100.0", "1.0.0"])
def test_check_vllm_version_that_refuses_our_ids_raises_and_says_so(version: str) -> None:
    with pytest.raises(
        ModelError,
        match=r"0\.33 on refuses token ids outside the model's vocabulary, "
        r"and users and items are such ids; run: pip install 'xrec\[vllm\]'",
    ):
        check_vllm_version(version)


@pytest.mark.parametrize("version", ["0.29.0", "0.9.2", "dev", "0", ""])
def test_check_vllm_version_that_was_never_tried_raises_model_error(version: str) -> None:
    with pytest.raises(ModelError, match=r"xrec was tested with 0\.30 to 0\.32"):
        check_vllm_version(version)


def test_engine_checks_the_version_of_the_installed_vllm_before_it_starts(
    mocked_vllm: MagicMock, tmp_path: Path
) -> None:
    mocked_vllm.__version__ = "0.33.0"
    engine = importlib.import_module("xrec.generate.vllm.engine")
    graph = make_graph(tmp_path / "graph")
    with pytest.raises(ModelError, match=r"vLLM 0\.33\.0 is installed"):
        engine.VllmEngine(
            tmp_path / "llm",
            toy_tokenizer(),
            make_adapter("direct", graph),
            graph,
            dtype=torch.float32,
            device=torch.device("cpu"),
            max_rows=1,
            key_value_bytes=1,
        )
    assert not mocked_vllm.LLMEngine.from_engine_args.called


def validate_as_vllm_0_33(prompt: Sequence[int], vocab_size: int) -> None:
    """The rule that vLLM applies from 0.33 on, whether it has a tokenizer or not."""
    if max(prompt) >= vocab_size:
        raise ValueError(f"Token id {max(prompt)} is out of vocabulary")


@pytest.mark.parametrize("num_tokens", [1, 3])
def test_prompt_of_a_pair_would_be_refused_for_its_ids_above_the_vocabulary(
    num_tokens: int,
) -> None:
    vocabulary = Vocabulary(V, NUM_USERS, NUM_ITEMS, num_tokens)
    builder = PromptBuilder(toy_tokenizer(), PromptConfig(), vocabulary)
    prompt = builder.build(2, 5, TEXTS)
    collaborative = {*vocabulary.user_tokens(2), *vocabulary.item_tokens(5)}
    assert {token for token in prompt if token >= V} == collaborative
    assert prompt_failure(prompt, vocabulary.num_ids, 256) is None
    with pytest.raises(ValueError, match=f"Token id {max(collaborative)} is out of vocabulary"):
        validate_as_vllm_0_33(prompt, V)
    validate_as_vllm_0_33([token for token in prompt if token < V], V)
