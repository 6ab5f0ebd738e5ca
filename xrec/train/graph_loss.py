"""What the graph's training minimizes: the loss of interactions, and that of aspects.

The two are of the same kind. An aspect is to a user or an item what an item is to a user.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from xrec.config.graph import BPRLossConfig, PretrainGraphConfig, SampledSoftmaxConfig
from xrec.graph import (
    BPR,
    Batch,
    NegativeSampler,
    Objective,
    SampledSoftmax,
    batch_loss,
    epoch_batches,
)
from xrec.train.data import GraphData
from xrec.train.ray_worker import rank, world_size

_ASPECT_SEED = 1_000_003  # the batches of interactions must not depend on aspects


def build_objective(
    loss: BPRLossConfig | SampledSoftmaxConfig, edges: Tensor, num_users: int, num_items: int
) -> Objective:
    """Return the loss with its negatives; `edges` (2, E) int64 are the training interactions."""
    if isinstance(loss, BPRLossConfig):
        return BPR(NegativeSampler(edges, num_users, num_items))
    return SampledSoftmax(edges, num_items, **loss.model_dump(exclude={"kind"}))


class AspectLoss:
    """The loss of the edges of users and items with aspects.

    An epoch has as many of them as it has interactions, drawn anew, or all if there are fewer. A
    user or item with every aspect has no negative one, and is left out.
    """

    def __init__(self, data: GraphData, config: PretrainGraphConfig) -> None:
        """Take the loss's kind from `config.training`, its weight from `config.model.aspects`."""
        assert config.model.aspects is not None
        aspects, num_nodes = data.aspects, data.num_users + data.num_items
        has_all = torch.bincount(aspects.nodes, minlength=num_nodes) == aspects.num_aspects
        self._edges = aspects.pairs[:, ~has_all[aspects.nodes]]
        self._weight = config.model.aspects.loss_weight
        self._training = config.training
        self._num_items = data.num_items
        self._objective = build_objective(
            config.training.loss, self._edges, num_nodes, aspects.num_aspects
        )

    def batches(self, epoch: int, most: int) -> Iterator[Batch]:
        """Yield a batch for each step, of at most `most` edges in all."""
        seed = self._training.seed + _ASPECT_SEED
        generator = torch.Generator().manual_seed(seed + epoch)
        drawn = torch.randperm(self._edges.shape[1], generator=generator)[:most]
        if not len(drawn):
            return iter(())
        return epoch_batches(
            self._edges[:, drawn],
            self._objective.negatives,
            epoch=epoch,
            steps_per_epoch=self._training.steps_per_epoch,
            micro_batch_size=self._training.micro_batch_size,
            seed=seed,
        )

    def of(self, users: Tensor, others: Tensor, batch: Batch) -> Tensor:
        """Return this worker's part of the weighted loss, () float32.

        users (U, D); others (I + A, D) are items, then aspects.
        """
        items, aspects = others.split([self._num_items, len(others) - self._num_items])
        nodes = torch.cat([users, items])
        part = batch_loss(
            nodes, aspects, batch, self._objective, rank=rank(), world_size=world_size()
        )
        return self._weight * part
