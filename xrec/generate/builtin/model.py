"""Runs packed passes through a transformers decoder: the tokens of many sequences in one row."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from xrec.errors import ModelError
from xrec.generate.builtin.attention import PACKED, Attend, packed_attention
from xrec.generate.builtin.kv_cache import KVShape
from xrec.llm.collaborative import CollaborativeEmbedding, Vocabulary
from xrec.llm.model import unusual_layers

_ADAPTED_AT_ONCE = 4096


class PackedModel:
    """Packed passes through `model`, which is unchanged between passes.

    Raises ModelError for a model that cannot run packed passes.
    """

    def __init__(self, model: PreTrainedModel):
        AttentionInterface.register(PACKED, packed_attention)  # for which transformers has no mask
        embedding = model.get_input_embeddings()
        collaborative = embedding if isinstance(embedding, CollaborativeEmbedding) else None
        vocabulary = (
            collaborative.vocabulary
            if collaborative
            else Vocabulary(embedding.num_embeddings, 0, 0)
        )
        self.model = model
        self.num_ids, self.num_text_tokens = vocabulary.num_ids, vocabulary.num_text_tokens
        self.context_length = _context_length(model)
        self.shape = self._probe()
        self.vectors = AdaptedVectors(collaborative, model.device)

    @torch.inference_mode()
    def logits(
        self,
        token_ids: Sequence[int],
        positions: Sequence[int],
        attend: Attend,
        keep: Sequence[int] | None = None,
    ) -> Tensor:
        """One pass over T tokens at their `positions` (T,); returns logits (n, V).

        `keep` lists the indices of the tokens whose logits are returned; if it is None, all are.
        `vectors` has to hold all users and items among the tokens.
        """
        device = self.model.device
        kept = 0 if keep is None else torch.tensor(keep, dtype=torch.long, device=device)
        with _packed(self.model):
            output = self.model(
                inputs_embeds=self._embed(token_ids),
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
                logits_to_keep=kept,
                packed=attend,
            )
        logits: Tensor = output.logits[0]
        return logits

    def _embed(self, token_ids: Sequence[int]) -> Tensor:
        """The input vectors (1, T, H).

        The ids are known on the host, so a pass with text tokens only skips adapters and injection.
        """
        embedding, ids = (
            self.model.get_input_embeddings(),
            torch.tensor([token_ids], device=self.model.device),
        )
        if not isinstance(embedding, CollaborativeEmbedding):
            embeds: Tensor = embedding(ids)
            return embeds
        collaborative = [token for token in token_ids if token >= self.num_text_tokens]
        if not collaborative:
            return embedding.embed_text(ids)
        return embedding.embed(ids, ids >= self.num_text_tokens, self.vectors.of(collaborative))

    def _probe(self) -> KVShape:
        """The shape of one position's keys and values.

        It is seen by running one token: a store must hold what the layers give to attention.
        """
        name, seen = type(self.model).__name__, dict[int, tuple[int, int, int]]()

        def see(layer: int, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
            seen[layer] = (key.shape[1], key.shape[2], value.shape[2])
            return torch.zeros_like(query)

        if unusual := unusual_layers(self.model):
            raise ModelError(
                f"{name}: the engine cannot run {', '.join(unusual)}; "
                "use a decoder with full or sliding attention",
                code="unsupported_layer",
                saw=unusual,
            )
        try:
            self.logits([0], [0], see)
        except (TypeError, ValueError, KeyError) as error:
            raise ModelError(
                f"{name} cannot run a packed pass: {error}", code="no_packed_pass"
            ) from error
        num_layers, shapes = len(self.model.get_decoder().layers), set(seen.values())
        if (
            sorted(seen) != list(range(num_layers))
            or len(shapes) != 1
            or any(key != value for _, key, value in shapes)
        ):
            raise ModelError(
                f"{name}: {len(seen)} of its {num_layers} layers attend through "
                "transformers' AttentionInterface, with (heads, key width, value width) "
                f"{sorted(shapes)}; the engine needs all layers to do so, with one shape; "
                "use another model",
                code="unsupported_attention",
                saw=len(seen),
            )
        num_heads, head_dim, _ = shapes.pop()
        return KVShape(num_layers, num_heads, head_dim, self.model.dtype, self.model.device)


class AdaptedVectors:
    """Vectors by token id, for as long as a prompt with that id needs them.

    The same id may stand for another vector later (a new user of the endpoint takes the place of an
    earlier one), so none is kept longer. Without an `embedding` no prompt has users or items.
    """

    def __init__(self, embedding: CollaborativeEmbedding | None, device: torch.device):
        self._embedding, self._device = embedding, device
        self._num_text_tokens = embedding.vocabulary.num_text_tokens if embedding else 0
        self._num_prompts: Counter[int] = Counter()
        self._place_of: dict[int, int] = {}
        self._free: list[int] = []
        self._table: Tensor | None = None

    @torch.inference_mode()
    def keep(self, prompts: Iterable[Sequence[int]]) -> None:
        """Compute the vectors of prompts that are not here yet, and keep all of theirs."""
        if self._embedding is None:
            return
        for prompt in prompts:
            self._num_prompts.update(self._ids(prompt))
        new = sorted(self._num_prompts.keys() - self._place_of.keys())
        if new:
            parts = torch.tensor(new, device=self._device).split(_ADAPTED_AT_ONCE)
            self._put(new, torch.cat([self._embedding.adapt(part) for part in parts]))

    def drop(self, prompt: Sequence[int]) -> None:
        """A prompt that was kept needs its vectors no longer."""
        if self._embedding is None:
            return
        for token in self._ids(prompt):
            self._num_prompts[token] -= 1
            if not self._num_prompts[token]:
                del self._num_prompts[token]
                self._free.append(self._place_of.pop(token))

    def drop_all(self) -> None:
        """No prompt needs its vectors any longer."""
        self._num_prompts.clear()
        self._place_of.clear()
        self._free = list(range(0 if self._table is None else len(self._table)))

    def of(self, token_ids: Sequence[int]) -> Tensor:
        """The vectors (N, H) of ids that are kept, on the model's device."""
        assert self._table is not None
        places = torch.tensor([self._place_of[token] for token in token_ids])
        return self._table[places.to(self._device)]

    def _ids(self, prompt: Sequence[int]) -> set[int]:
        return {token for token in prompt if token >= self._num_text_tokens}

    def _put(self, token_ids: list[int], vectors: Tensor) -> None:
        missing = len(token_ids) - len(self._free)
        if missing > 0:
            size = 0 if self._table is None else len(self._table)
            added = vectors.new_empty(max(missing, size), vectors.shape[1])
            self._table = added if self._table is None else torch.cat([self._table, added])
            self._free += range(size, len(self._table))
        assert self._table is not None
        places = [self._free.pop() for _ in token_ids]
        self._table[torch.tensor(places).to(self._device)] = vectors
        self._place_of.update(zip(token_ids, places, strict=True))


@contextmanager
def _packed(model: PreTrainedModel) -> Iterator[None]:
    """Use packed attention inside the block.

    The configuration is set directly: `set_attn_implementation` would repeat its checks at every
    pass.
    """
    config = model.config.get_text_config(decoder=True)
    before, config._attn_implementation = config._attn_implementation, PACKED
    try:
        yield
    finally:
        config._attn_implementation = before


def _context_length(model: PreTrainedModel) -> int:
    """The number of positions that the model can hold.

    Some rotary embeddings change their frequencies once the longest row of a batch exceeds a
    length. For these it is that length, because rows of a batch must not influence each other.
    """
    config = model.config.get_text_config(decoder=True)
    rope = getattr(config, "rope_parameters", None) or {}
    first = (
        rope.get("original_max_position_embeddings")
        if rope.get("rope_type") in ("dynamic", "longrope")
        else None
    )
    return int(first or config.max_position_embeddings)
