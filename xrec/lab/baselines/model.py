"""What the training knows of a model: batches in, sums of losses out."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class TrainedModel(nn.Module, ABC):
    """A model that the trainer trains: all of its parameters that have gradients.

    loss_weights: of its N losses, each of which is a mean; the first one is that of the texts.
    """

    loss_weights: tuple[float, ...] = (1.0,)

    @abstractmethod
    def forward(self, batch: Any) -> Tensor:
        """The sums of the losses over the batch, (N,) nats."""

    @abstractmethod
    def counts(self, batch: Any) -> Tensor:
        """How many tokens each of the losses is a sum of, (N,) float32."""
