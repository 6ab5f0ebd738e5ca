"""The vectors that the adapters read: the graph's, or one of two substitutes for an ablation.

`random`: a fixed standard normal vector for each user and item. It identifies the user but carries
no taste, so that training can memorize users that it sees and learns nothing about others.

`constant`: a row of ones for everybody. The adapters are then two learned soft tokens, the same in
every prompt. Ones are used and not zeros, so that y = scale * sum_k g_k W_k (z - b_k) starts with
the size of a word and changes as fast under Adam as with any other z.
"""

import numpy as np
import torch
from torch import Tensor

from xrec.config.adapter import AdapterModelConfig


def input_vectors(
    config: AdapterModelConfig, users: Tensor, items: Tensor
) -> tuple[Tensor, Tensor]:
    """The vectors that `config.vectors` names, for users (U, D) and items (I, D), float32.

    `users` and `items` are the graph's vectors. A substitute's row depends on its index only, so
    that users and items which a cold start appends change no other row.
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
