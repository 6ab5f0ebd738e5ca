"""How close the logits were where two texts of one prompt differ for the first time."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel


@torch.inference_mode()
def gap(
    model: PreTrainedModel,
    prompt: Sequence[int],
    expected: Sequence[int],
    seen: Sequence[int],
    end: int,
) -> float:
    """Return the difference of the logits of the two tokens where the texts first differ."""
    ended = [[*text, end] for text in (expected, seen)]
    place = next(at for at, (one, other) in enumerate(zip(*ended, strict=False)) if one != other)
    ids = torch.tensor([[*prompt, *expected[:place]]], device=model.device)
    logits = model(ids, use_cache=False).logits[0, -1].float()
    return abs(float(logits[ended[0][place]] - logits[ended[1][place]]))
