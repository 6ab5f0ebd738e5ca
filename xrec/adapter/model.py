"""The two adapters, their input, and how they are attached to the frozen language model."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from xrec.adapter.moe import MoEAdapter
from xrec.config import AdapterModelConfig, Injection
from xrec.errors import ModelError
from xrec.llm.collaborative import CollaborativeEmbedding
from xrec.llm.injection import install_injection

_WORDS_AT_ONCE = 8192


@dataclass(frozen=True)
class Adapters:
    """The two adapters, and the injection rule for their vectors."""

    user: MoEAdapter
    item: MoEAdapter
    injection: Injection

    def state_dict(self) -> dict[str, Tensor]:
        """Return all tensors by name (`user.weight` and so on), as float32 on the CPU."""
        tensors = self._both.state_dict().items()
        return {name: tensor.detach().float().cpu() for name, tensor in tensors}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load a `state_dict`; raises RuntimeError for missing or unexpected tensors."""
        self._both.load_state_dict(state)

    @property
    def _both(self) -> nn.ModuleDict:
        return nn.ModuleDict({"user": self.user, "item": self.item})


def build_adapters(config: AdapterModelConfig, *, embedding_dim: int, hidden_size: int) -> Adapters:
    """Return new adapters from R^D to R^H, drawn from torch's global random generator."""
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
    """Add collaborative tokens to `model`, in place; return its new input embedding.

    The input embedding is replaced, hooks are added to the layers, and the model's own parameters
    are frozen. `user_vectors` is (U, D) and `item_vectors` (I, D). Raises ModelError, leaving the
    model unchanged, if its input embedding or layers do not fit the adapters.
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


def input_vectors(
    config: AdapterModelConfig, users: Tensor, items: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the adapters' input for users (U, D) and items (I, D), float32: `config.vectors`.

    `users` and `items` are the graph's vectors. The others are for ablations, and each row depends
    only on its index:

    random      a standard normal vector for each user and item. It identifies the user but says
                nothing about their taste, so training can only memorize.
    constant    ones for everybody, so the adapters are two learned soft tokens. With ones rather
                than zeros, y = scale * sum_k g_k W_k (z - b_k) starts at the size of a word and
                changes as fast under Adam as usual.
    """
    if config.vectors == "graph":
        return users, items
    if config.vectors == "constant":
        return torch.ones_like(users), torch.ones_like(items)
    return _random(users, side=0), _random(items, side=1)


def _random(like: Tensor, side: int) -> Tensor:
    return torch.from_numpy(
        np.random.default_rng([0, side]).standard_normal(tuple(like.shape), dtype=np.float32)
    )


def embedding_scale(model: PreTrainedModel) -> float:
    """Return the root mean square of the elements of word vectors as they enter the first layer.

    These are the embedding's outputs, because Gemma's multiplies each row of its table by sqrt(H).
    The weights must not be sharded.
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
            f"{name}: its input embedding is a {type(embedding).__name__}, expected nn.Embedding",
            code="no_embedding_table",
            saw=type(embedding).__name__,
        )
    if getattr(model.get_decoder(), "embed_tokens_per_layer", None) is not None:
        raise ModelError(
            f"{name}: its layers also look up token IDs in `embed_tokens_per_layer`, which has no "
            "row for a collaborative token; use a model without it (Gemma 1, 2, or 3)",
            code="second_embedding_table",
            saw="embed_tokens_per_layer",
        )
    width = adapters.user.output_dim
    if embedding.embedding_dim != width:
        raise ModelError(
            f"{name}: its word vectors have {embedding.embedding_dim} dimensions, those of the "
            f"adapters {width}; expected the same",
            code="another_width",
            saw=embedding.embedding_dim,
        )
    return embedding
