"""Masks over the next tokens: what the grammars of some rows allow, applied to their logits."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from xrec.generate.engine import TokenMask


def apply_masks(logits: Tensor, masks: Sequence[TokenMask | None]) -> None:
    """Set the logits (R, V) of tokens that a row's mask does not allow to -inf, in place."""
    vocabulary = logits.shape[1]
    bitmask = torch.zeros(-(-vocabulary // 32), dtype=torch.int32)
    for row, mask in zip(logits, masks, strict=True):
        if mask is not None and mask.fill(bitmask):
            row.masked_fill_(_bits(~bitmask)[:vocabulary].to(row.device), -torch.inf)


def _bits(words: Tensor) -> Tensor:
    """The bits of int32 words (n,) as booleans (32 n,), the lowest bit of each word first."""
    octets = words.numpy().astype("<i4", copy=False).view(np.uint8)
    return torch.from_numpy(np.unpackbits(octets, bitorder="little").view(np.bool_))
