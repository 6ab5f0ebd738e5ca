"""Users and items as a modality of vLLM, and prompts with them as vLLM takes them.

At a collaborative token a prompt has a place-holder and an item, as at an image. The item is the
vector a in R^H that the adapter gave (xrec.llm.collaborative). It goes to vLLM by value, so what is
later written into a table of vectors cannot change a request. vLLM's prefix cache keeps prompts
apart by the items' identifiers, which are hashes of what the items hold.

vLLM builds the classes below at its start, to see how many tokens an item has and to try the model
with one. Requests do not pass through them.
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
_NUM_KEPT = 4096  # vectors of users and items that come again


class PromptInputs:
    """Makes vLLM's inputs of prompts, with the vectors that the tables have at the time.

    `tables` are those of the vocabulary's users (U, D) and items (I, D), `adapters` what turns
    their rows into vectors. `model` identifies the adapters and their rule, and `dtype` is what
    vLLM computes in. The id `placeholder` of the text vocabulary stands at users and items; vLLM
    goes by their positions, so a prompt may hold it as text too.
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
        """What vLLM is given for the token ids of `prompt`."""
        first = self._vocabulary.num_text_tokens
        places = [place for place, token in enumerate(prompt) if token >= first]
        if not places:
            return tokens_input(list(prompt))
        items = [self._item(prompt[place] - first) for place in places]
        vectors, identifiers = zip(*items, strict=True)
        text = [self._placeholder if token >= first else token for token in prompt]
        return input_with(text, places, torch.cat(vectors), identifiers)

    def _item(self, position: int) -> tuple[Tensor, str]:
        number, entity = divmod(position, self._vocabulary.num_entities)
        is_item = entity >= self._vocabulary.num_users
        row = self._tables[is_item][entity - is_item * self._vocabulary.num_users]
        return self._made(is_item, number, _bytes(row))

    @torch.no_grad()
    def _make(self, is_item: bool, number: int, row: bytes) -> tuple[Tensor, str]:
        """The vector (1, H) of token `number` of what has `row`, and its identifier."""
        values = torch.frombuffer(bytearray(row), dtype=self._tables[0].dtype)
        adapted: Tensor = self._adapters[is_item](values[None])
        of_tokens = adapted.unflatten(-1, (self._vocabulary.num_tokens, -1))
        vector = of_tokens[:, number].to(self._dtype)
        return vector, hashlib.sha256(self._model.encode() + _bytes(vector)).hexdigest()


def _bytes(vector: Tensor) -> bytes:
    return vector.contiguous().view(torch.uint8).numpy().tobytes()


def input_with(
    token_ids: list[int], places: Sequence[int], vectors: Tensor, identifiers: Sequence[str]
) -> MultiModalInput:
    """`token_ids` with the items `vectors` (N, H) at the N `places`, in ascending order."""
    fields = {"vectors": MultiModalFieldConfig.batched(MODALITY)}
    items = MultiModalKwargsItems.from_hf_inputs(BatchFeature({"vectors": vectors}), fields)
    ranges = [PlaceholderRange(offset=place, length=1) for place in places]
    return mm_input(token_ids, items, {MODALITY: list(identifiers)}, {MODALITY: ranges})


class Info(BaseProcessingInfo):
    """Any number of items in a prompt, each of one token."""

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {MODALITY: None}

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int]:
        return {MODALITY: 1}


class NoDummies(BaseDummyInputsBuilder[Info]):
    """Nothing is made here of which `Processor` could make the item that vLLM tries."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        return ""

    def get_dummy_mm_data(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {}


class Processor(BaseMultiModalProcessor[Info]):
    """Makes the one item, of zeros, with which vLLM tries the model at its start."""

    def apply(self, *args: Any, **kwargs: Any) -> MultiModalInput:
        config = self.info.ctx.model_config
        vectors = torch.zeros(1, config.get_hidden_size(), dtype=config.dtype)
        return input_with([0], [0], vectors, ["zeros"])

    def _get_mm_fields_config(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        raise NotImplementedError("only `apply` calls this")

    def _get_prompt_updates(self, *args: Any, **kwargs: Any) -> list[Any]:
        raise NotImplementedError("only `apply` calls this")
