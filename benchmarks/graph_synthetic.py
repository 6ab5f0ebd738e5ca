"""Bipartite graphs of any size whose degrees follow power laws on both sides."""

import numpy as np
import torch
from torch import Tensor

NODES_PER_EDGE = 0.1
_ZIPF_EXPONENT = 1.0
_PARETO_SHAPE = 1.5
_USER_SHARE = 0.6


def power_law_edges(num_edges: int, seed: int) -> tuple[Tensor, int, int]:
    """Return edges (2, E) int64, num_users and num_items; the same for the same arguments.

    There are E = `num_edges` distinct pairs and E / 10 nodes, 60 % of them users. A user's activity
    is Pareto (shape 1.5), and an item's popularity is Zipf (probability ~ rank^-1). Pairs that were
    drawn before are drawn again. Nodes are shuffled, so an index says nothing about the degree.
    """
    rng = np.random.default_rng(seed)
    num_nodes = int(num_edges * NODES_PER_EDGE)
    num_users = int(num_nodes * _USER_SHARE)
    num_items = num_nodes - num_users
    users = np.cumsum(rng.pareto(_PARETO_SHAPE, num_users) + 1.0)
    items = np.cumsum(np.arange(1, num_items + 1) ** -_ZIPF_EXPONENT)
    shuffled = rng.permutation(num_items)
    keys = np.empty(0, dtype=np.int64)
    while len(keys) < num_edges:
        draws = int((num_edges - len(keys)) * 1.3) + 16
        pairs = _draw(users, draws, rng) * num_items + shuffled[_draw(items, draws, rng)]
        keys = np.unique(np.concatenate([keys, pairs]))
    keys = rng.permutation(keys)[:num_edges]
    return torch.from_numpy(np.stack([keys // num_items, keys % num_items])), num_users, num_items


def _draw(cumulative: np.ndarray, num_draws: int, rng: np.random.Generator) -> np.ndarray:
    """Draw indices in proportion to weights whose running sum is `cumulative`."""
    draws: np.ndarray = np.searchsorted(
        cumulative, rng.random(num_draws) * cumulative[-1], side="right"
    )
    return draws
