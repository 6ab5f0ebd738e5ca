"""The language model of a baseline: its weights, and its tokens as those of texts."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from xrec.lab.baselines.baseline import Baseline
from xrec.llm.model import (
    folder_stop_token_ids,
    load_model,
    load_tokenizer,
    read_text_config,
    resolve_attention,
)
from xrec.llm.source import resolve_model
from xrec.llm.text_encoder import TextEncoder


class LanguageModelTokens:
    """A `data.Codec` of a language model's tokens."""

    def __init__(self, folder: Path):
        self._tokenizer = load_tokenizer(folder)
        self._encode = TextEncoder(self._tokenizer).encode
        self._num_tokens = read_text_config(folder).vocab_size
        end, ends = self._tokenizer.eos_token_id, folder_stop_token_ids(folder, self._tokenizer)
        self._ends = (end, *(each for each in ends if each != end))

    def __len__(self) -> int:
        return int(self._num_tokens)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The end token, and what else ends a text of this model."""
        return self._ends

    @property
    def never_written(self) -> tuple[int, ...]:
        """The special tokens, but for those that end a text."""
        return tuple(sorted({*self._tokenizer.all_special_ids} - {*self._ends}))

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without an end; no text has a special token."""
        return list(self._encode(text.strip()))

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens that were written; it goes to the first end."""
        end = next((place for place, each in enumerate(token_ids) if each in self._ends), None)
        written = list(token_ids[:end])
        return str(self._tokenizer.decode(written, skip_special_tokens=True)).strip()


def language_model_folder(baseline: Baseline) -> Path:
    """The local folder of the baseline's language model; raises ModelError if there is none."""
    llm = baseline.language_model
    return resolve_model(llm.model, llm.cache_dir, baseline.storage)


def load_language_model(
    baseline: Baseline, device: torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    """The baseline's language model, frozen and in eval mode, on the CPU.

    Its attention is the one that `device` will need.
    """
    attention = resolve_attention(baseline.language_model.attn_implementation, device)
    return load_model(
        language_model_folder(baseline),
        dtype=dtype,
        device=torch.device("cpu"),
        attn_implementation=attention,
    )
