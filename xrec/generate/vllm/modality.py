"""Users and items as a modality of vLLM, and prompts with them in vLLM's format.

Like an image, a collaborative token is a placeholder in the prompt with a multimodal item. The item
is the adapter's vector a in R^H (xrec.llm.collaborative). It is passed by value, so that later
changes of the tables do not affect a request. The items' identifiers, which are hashes of the
vectors, keep prompts apart in vLLM's prefix cache.

When it starts, vLLM creates the classes below to find out how many tokens an item has, and to test
the model with one. Requests do not use them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchFeature
from vllm.inputs import EngineInput, MultiModalInput, mm_input, tokens_input
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems, PlaceholderRange
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
)

from xrec.llm.collaborative import Vocabulary

MODALITY = "collaborative"
_NUM_KEPT = 4096  # cached vectors of users and items


class PromptInputs:
    """Converts prompts to vLLM's inputs, with the current vectors in the tables.

    tables: the vectors of users (U, D) and items (I, D). adapters: the modules that convert them.
    model: identifies the adapters and their rule. dtype: the dtype in which vLLM computes.
    placeholder: the text token in place of users and items. vLLM uses positions, so a prompt may
        also contain it as text.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        tables: tuple[Tensor, Tensor],
        adapters: tuple[nn.Module, nn.Module],
        *,
        model: str,
        placeholder: int,
        dtype: torch.dtype,
    ):
        self._vocabulary, self._tables, self._model = vocabulary, tables, model
        self._adapters = (adapters[0].eval(), adapters[1].eval())
        self._placeholder, self._dtype = placeholder, dtype
        self._made = lru_cache(_NUM_KEPT)(self._make)

    def __call__(self, prompt: Sequence[int]) -> EngineInput:
        """Return vLLM's input for a prompt's token IDs."""
        first = self._vocabulary.num_text_tokens
        positions = [position for position, token in enumerate(prompt) if token >= first]
        if not positions:
            return tokens_input(list(prompt))
        items = [self._item(prompt[position] - first) for position in positions]
        vectors, identifiers = zip(*items, strict=True)
        text = [self._placeholder if token >= first else token for token in prompt]
        return input_with(text, positions, torch.cat(vectors), identifiers)

    def _item(self, position: int) -> tuple[Tensor, str]:
        number, entity = divmod(position, self._vocabulary.num_entities)
        is_item = entity >= self._vocabulary.num_users
        row = self._tables[is_item][entity - is_item * self._vocabulary.num_users]
        return self._made(is_item, number, _bytes(row))

    @torch.no_grad()
    def _make(self, is_item: bool, number: int, row: bytes) -> tuple[Tensor, str]:
        """Return the vector (1, H) for token `number` of a user or item, and its identifier."""
        values = torch.frombuffer(bytearray(row), dtype=self._tables[0].dtype)
        adapted: Tensor = self._adapters[is_item](values[None])
        by_token = adapted.unflatten(-1, (self._vocabulary.num_tokens, -1))
        vector = by_token[:, number].to(self._dtype)
        return vector, hashlib.sha256(self._model.encode() + _bytes(vector)).hexdigest()


def _bytes(vector: Tensor) -> bytes:
    return vector.contiguous().view(torch.uint8).numpy().tobytes()


def input_with(
    token_ids: list[int], positions: Sequence[int], vectors: Tensor, identifiers: Sequence[str]
) -> MultiModalInput:
    """Return the input with the items `vectors` (N, H) at N ascending `positions`."""
    fields = {"vectors": MultiModalFieldConfig.batched(MODALITY)}
    items = MultiModalKwargsItems.from_hf_inputs(BatchFeature({"vectors": vectors}), fields)
    ranges = [PlaceholderRange(offset=position, length=1) for position in positions]
    return mm_input(token_ids, items, {MODALITY: list(identifiers)}, {MODALITY: ranges})


class Info(BaseProcessingInfo):
    """The limits of the modality: any number of items in a prompt, one token each."""

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {MODALITY: None}

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int]:
        return {MODALITY: 1}


class NoDummies(BaseDummyInputsBuilder[Info]):
    """The builder of dummy inputs, which are empty because `Processor` makes the test item."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return ""

    def get_dummy_mm_data(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {}


class Processor(BaseMultiModalProcessor[Info]):
    """Makes the item of zeros with which vLLM tests the model when it starts."""

    def apply(self, *args: Any, **kwargs: Any) -> MultiModalInput:
        config = self.info.ctx.model_config
        vectors = torch.zeros(1, config.get_hidden_size(), dtype=config.dtype)
        return input_with([0], [0], vectors, ["zeros"])

    def _get_mm_fields_config(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        raise NotImplementedError("only `apply` calls this")

    def _get_prompt_updates(self, *args: Any, **kwargs: Any) -> list[Any]:
        raise NotImplementedError("only `apply` calls this")
