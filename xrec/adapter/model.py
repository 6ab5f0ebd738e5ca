"""The two adapters, what they read, and how they are attached to the frozen language model."""

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
    """The two adapters, and the injection rule by which their vectors enter the layers."""

    user: MoEAdapter
    item: MoEAdapter
    injection: Injection

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors by name (`user.weight` and so on), as float32 on the CPU."""
        tensors = self._both.state_dict().items()
        return {name: tensor.detach().float().cpu() for name, tensor in tensors}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Set all tensors from a `state_dict`; raises RuntimeError for missing or surplus ones."""
        self._both.load_state_dict(state)

    @property
    def _both(self) -> nn.ModuleDict:
        return nn.ModuleDict({"user": self.user, "item": self.item})


def build_adapters(config: AdapterModelConfig, *, embedding_dim: int, hidden_size: int) -> Adapters:
    """New adapters from R^D of the graph to R^H of the model.

    Their parameters are drawn from torch's global random generator.
    """
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
    """Add collaborative tokens to `model`, in place; returns its new input embedding.

    The input embedding is replaced and hooks are added to the layers. `user_vectors` is (U, D) and
    `item_vectors` (I, D). The model's own parameters are frozen; the adapters can still be trained.

    Raises ModelError if the model's input embedding or its layers do not fit the adapters. The
    model is unchanged in this case.
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
    """The vectors that `config.vectors` names, for users (U, D) and items (I, D), float32.

    `users` and `items` are the graph's vectors. The two others are for ablations. A row of theirs
    depends on its index only, so that later users and items change no other:

    random      a fixed standard normal vector for each user and item. It identifies the user but
                carries no taste: training can memorize users and learns nothing about others.
    constant    a row of ones for everybody. The adapters are then two learned soft tokens. Ones are
                used and not zeros, so that y = scale * sum_k g_k W_k (z - b_k) starts with the size
                of a word and changes as fast under Adam as with any other z.
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
    """The root mean square of all elements of the words' vectors as they enter the first layer.

    It is taken over the embedding's outputs and not over its table, because Gemma's embedding
    multiplies each row by sqrt(H). It cannot be computed while ZeRO-3 shards the weights.
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
            f"{name}: its layers look token ids up again, in `embed_tokens_per_layer`, "
            "which has no row for a collaborative token; "
            "use a model without it (Gemma 1, 2 or 3)",
            code="second_embedding_table",
            saw="embed_tokens_per_layer",
        )
    width = adapters.user.output_dim
    if embedding.embedding_dim != width:
        raise ModelError(
            f"{name}: its words are {embedding.embedding_dim} wide, "
            f"the adapters' vectors {width}; expected the same width",
            code="another_width",
            saw=embedding.embedding_dim,
        )
    return embedding
