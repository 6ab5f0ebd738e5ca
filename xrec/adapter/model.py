"""The frozen language model with collaborative tokens: adapters attached."""

from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from xrec.adapter.moe import MoEAdapter
from xrec.config import AdapterModelConfig, Injection
from xrec.errors import ModelError
from xrec.llm.collaborative import CollaborativeEmbedding
from xrec.llm.injection import install_injection


@dataclass(frozen=True)
class Adapters:
    """The two adapters and the rule by which their vectors enter the model."""

    user: MoEAdapter
    item: MoEAdapter
    injection: Injection

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors by name, `user.weight` and so on; float32, on the CPU."""
        parts = {"user": self.user, "item": self.item}
        return {f"{side}.{name}": tensor.detach().float().cpu() for side, part in parts.items() for name, tensor in part.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave; RuntimeError for missing or surplus tensors."""
        for side, part in (("user", self.user), ("item", self.item)):
            part.load_state_dict({name.removeprefix(f"{side}."): tensor for name, tensor in state.items() if name.startswith(f"{side}.")})


def build_adapters(config: AdapterModelConfig, *, embedding_dim: int, hidden_size: int) -> Adapters:
    """Adapters from R^D of the graph to R^H of the model, freshly initialized from torch's global seed."""
    settings = {"dropout": config.dropout, "gating_noise": config.gating_noise, "axis_power": config.axis_power}
    user, item = (MoEAdapter(embedding_dim, hidden_size, config.num_experts, **settings) for _ in range(2))  # type: ignore[arg-type]
    return Adapters(user, item, config.injection)


def attach_adapters(model: PreTrainedModel, adapters: Adapters, *, user_vectors: Tensor, item_vectors: Tensor) -> CollaborativeEmbedding:
    """Give `model` collaborative tokens, in place: its input embedding is replaced, its layers get their hooks.

    `user_vectors` (U, D), `item_vectors` (I, D). The model's own parameters are frozen; the adapters' stay as they are.
    Raises ModelError if the model's input embedding is no nn.Embedding or its layers do not fit the injection.
    """
    token_embedding = model.get_input_embeddings()
    if not isinstance(token_embedding, nn.Embedding):
        raise ModelError(f"{type(model).__name__}: its input embedding is a {type(token_embedding).__name__}, expected nn.Embedding")
    model.requires_grad_(False)
    embedding = CollaborativeEmbedding(token_embedding, user_vectors, item_vectors, adapters.user, adapters.item)
    model.set_input_embeddings(embedding)
    install_injection(model, embedding, adapters.injection)
    return embedding


def embedding_scale(model: PreTrainedModel) -> float:
    """Root mean square of the token embeddings: the size of a word's vector, per element. Not under ZeRO-3 sharding."""
    weight = model.get_input_embeddings().weight
    return float(weight.detach().float().square().mean().sqrt())
