"""What the adapters read: the graph's vectors, or one of two stand-ins that an ablation sets against them.

`random`: standard normal, fixed, for each user and item. Who it is can be told from it, what they like cannot: seen users can
be learned by heart, unseen ones not at all.
`constant`: a row of ones for everybody. The adapters are then two learned soft tokens, the same in every prompt. Ones, not
zeros: y = scale * sum_k g_k W_k (z - b_k) starts at the size of a word and moves as fast under Adam as with any other z.
"""

import numpy as np
import torch
from torch import Tensor

from xrec.config.adapter import AdapterModelConfig


def input_vectors(
    config: AdapterModelConfig, users: Tensor, items: Tensor
) -> tuple[Tensor, Tensor]:
    """The vectors of `config.vectors` in place of the graph's `users` (U, D) and `items` (I, D), of the same shapes, float32.

    A row depends on its index alone: users and items that a cold start appends change no other row.
    """
    if config.vectors == "graph":
        return users, items
    if config.vectors == "constant":
        return torch.ones_like(users), torch.ones_like(items)
    return _random(users, config.vectors_seed, side=0), _random(items, config.vectors_seed, side=1)


def _random(like: Tensor, seed: int, side: int) -> Tensor:
    return torch.from_numpy(
        np.random.default_rng([seed, side]).standard_normal(tuple(like.shape), dtype=np.float32)
    )
