"""What LightGCN is trained with: pairwise ranking loss and L2 regularization, each a mean over the batch's triples."""

import torch.nn.functional as F
from torch import Tensor


def bpr_loss(pos_scores: Tensor, neg_scores: Tensor) -> Tensor:
    """mean_b -ln sigmoid(s(u, i) - s(u, j)), i a positive item of u, j a negative one (arXiv 1205.2618, eq. in section 4.1).

    Shapes: pos_scores (B,), neg_scores (B,) -> () float32.
    """
    return F.softplus(neg_scores - pos_scores).mean()


def l2_penalty(*embeddings: Tensor) -> Tensor:
    """1/2 mean_b sum_e ||e_b||^2 over the layer-0 vectors of a batch: of the users, positive and negative items.

    The regularization of LightGCN's own code (arXiv 2002.02126, eq. 15). Shapes: each (B, D) -> () float32.
    """
    total = sum((e.square().sum(dim=1) for e in embeddings), start=embeddings[0].new_zeros(()))
    return 0.5 * total.mean()
