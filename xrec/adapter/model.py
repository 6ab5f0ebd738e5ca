"""The frozen language model with collaborative tokens: adapters attached."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from xrec.adapter.moe import MoEAdapter
from xrec.config.adapter import AdapterModelConfig, Injection
from xrec.errors import ModelError
from xrec.llm.collaborative import CollaborativeEmbedding
from xrec.llm.injection import install_injection

_WORDS_AT_ONCE = 8192


@dataclass(frozen=True)
class Adapters:
    """The two adapters and the rule by which their vectors enter the model."""

    user: MoEAdapter
    item: MoEAdapter
    injection: Injection

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors by name, `user.weight` and so on; float32, on the CPU."""
        parts = {"user": self.user, "item": self.item}
        return {
            f"{side}.{name}": tensor.detach().float().cpu()
            for side, part in parts.items()
            for name, tensor in part.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over what `state_dict` gave; RuntimeError for missing or surplus tensors."""
        surplus = [name for name in state if not name.startswith(("user.", "item."))]
        if surplus:
            raise RuntimeError(
                f"tensors of neither the user's nor the item's adapter: {', '.join(surplus)}"
            )
        for side, part in (("user", self.user), ("item", self.item)):
            part.load_state_dict(
                {
                    name.removeprefix(f"{side}."): tensor
                    for name, tensor in state.items()
                    if name.startswith(f"{side}.")
                }
            )


def build_adapters(config: AdapterModelConfig, *, embedding_dim: int, hidden_size: int) -> Adapters:
    """Adapters from R^D of the graph to R^H of the model, freshly initialized from torch's global seed."""
    settings = config.model_dump(
        include={"dropout", "gating_noise", "axis_power", "own_share", "num_tokens"}
    )
    user, item = (
        MoEAdapter(embedding_dim, hidden_size, config.num_experts, **settings) for _ in range(2)
    )
    return Adapters(user, item, config.injection)


def attach_adapters(
    model: PreTrainedModel, adapters: Adapters, *, user_vectors: Tensor, item_vectors: Tensor
) -> CollaborativeEmbedding:
    """Give `model` collaborative tokens, in place: its input embedding is replaced, its layers get their hooks.

    `user_vectors` (U, D), `item_vectors` (I, D). The model's own parameters are frozen; the adapters' stay as they are.
    Raises ModelError, with the model as it was, if its input embedding or its layers do not fit the adapters.
    """
    embedding = CollaborativeEmbedding(
        _token_embedding(model, adapters),
        user_vectors,
        item_vectors,
        adapters.user,
        adapters.item,
        adapters.user.num_tokens,
    )
    install_injection(model, embedding, adapters.injection)
    model.requires_grad_(False).set_input_embeddings(embedding)
    return embedding


def embedding_scale(model: PreTrainedModel) -> float:
    """Root mean square of a word's vector, per element, as it enters the first layer. Not under ZeRO-3 sharding.

    Of what the embedding gives, not of its table: Gemma's embedding multiplies each row by sqrt(H).
    """
    embedding = model.get_input_embeddings()
    ids = torch.arange(embedding.num_embeddings, device=embedding.weight.device)
    sum_of_squares = sum(
        float(embedding(part).detach().float().square().sum()) for part in ids.split(_WORDS_AT_ONCE)
    )
    return math.sqrt(sum_of_squares / (embedding.num_embeddings * embedding.embedding_dim))


def _token_embedding(model: PreTrainedModel, adapters: Adapters) -> nn.Embedding:
    name, embedding = type(model).__name__, model.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        raise ModelError(
            f"{name}: its input embedding is a {type(embedding).__name__}, expected nn.Embedding"
        )
    if getattr(model.get_decoder(), "embed_tokens_per_layer", None) is not None:
        raise ModelError(
            f"{name}: its layers look token ids up again, in `embed_tokens_per_layer`, which has no row for a collaborative token; "
            "use a model without it (Gemma 1, 2 or 3)"
        )
    width = adapters.user.output_dim
    if embedding.embedding_dim != width:
        raise ModelError(
            f"{name}: its words are {embedding.embedding_dim} wide, the adapters' vectors {width}; they must be alike"
        )
    return embedding
