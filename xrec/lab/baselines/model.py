"""What the training knows of a model: batches in, sums of losses out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class TrainedModel(nn.Module, ABC):
    """A model that the trainer trains: all of its parameters that have gradients.

    loss_weights: of its N losses, each of which is a mean; the first one is that of the texts.
    """

    loss_weights: tuple[float, ...] = (1.0,)

    @abstractmethod
    def forward(self, batch: Any) -> Tensor:
        """The sums of the losses over the batch, (N,) nats; `batch.counts` is what they are of."""


@torch.no_grad()
def load_parameters(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set the parameters of these names; parameters that share a tensor have one name."""
    parameters = dict(model.named_parameters())
    for name, tensor in tensors.items():
        parameters[name].copy_(tensor)
