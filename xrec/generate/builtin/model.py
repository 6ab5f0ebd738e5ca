"""Run packed passes through a transformers decoder: the tokens of many sequences in one row."""

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
    """Runs packed passes through `model`, which is unchanged between passes.

    Raises ModelError for a model that cannot run packed passes.
    """

    def __init__(self, model: PreTrainedModel):
        AttentionInterface.register(PACKED, packed_attention)  # transformers makes no mask for it
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
        """Run a pass over T tokens at their `positions` (T,); return logits (n, V).

        keep: indices of the tokens whose logits are returned; None for all.

        The vectors of all users and items among the tokens must be in `vectors`.
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
        """Return the input vectors (1, T, H).

        The IDs are known on the host, so a pass with only text tokens skips adapters and injection.
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
        """Return the shape of one position's keys and values, found by running one token."""
        name, seen = type(self.model).__name__, dict[int, tuple[int, int, int]]()

        def record(layer: int, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> Tensor:
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
            self.logits([0], [0], record)
        except (TypeError, ValueError, KeyError) as error:
            raise ModelError(
                f"{name} cannot run a packed pass: {error}; use another model",
                code="no_packed_pass",
            ) from error
        num_layers, shapes = len(self.model.get_decoder().layers), set(seen.values())
        if (
            sorted(seen) != list(range(num_layers))
            or len(shapes) != 1
            or any(key != value for _, key, value in shapes)
        ):
            raise ModelError(
                f"{name}: {len(seen)} of {num_layers} layers use transformers' "
                "AttentionInterface, with (heads, key width, value width) "
                f"{sorted(shapes)}; expected all layers, with one shape; "
                "use another model",
                code="unsupported_attention",
                saw=len(seen),
            )
        num_heads, head_dim, _ = shapes.pop()
        return KVShape(num_layers, num_heads, head_dim, self.model.dtype, self.model.device)


class AdaptedVectors:
    """The vectors of users and items by token ID, while a prompt needs them.

    They are not kept longer, because the same ID may later have another vector: a new user of the
    endpoint reuses the row of an earlier one. Without an `embedding`, no prompt has users or items.
    """

    def __init__(self, embedding: CollaborativeEmbedding | None, device: torch.device):
        self._embedding, self._device = embedding, device
        self._num_text_tokens = embedding.vocabulary.num_text_tokens if embedding else 0
        self._num_prompts: Counter[int] = Counter()
        self._row_of: dict[int, int] = {}
        self._free: list[int] = []
        self._table: Tensor | None = None

    @torch.inference_mode()
    def keep(self, prompts: Iterable[Sequence[int]]) -> None:
        """Keep the vectors of the prompts until `drop`, and compute those that are missing."""
        if self._embedding is None:
            return
        for prompt in prompts:
            self._num_prompts.update(self._ids(prompt))
        new = sorted(self._num_prompts.keys() - self._row_of.keys())
        if new:
            parts = torch.tensor(new, device=self._device).split(_ADAPTED_AT_ONCE)
            self._put(new, torch.cat([self._embedding.adapt(part) for part in parts]))

    def drop(self, prompt: Sequence[int]) -> None:
        """Release the vectors of a prompt that were kept for it."""
        if self._embedding is None:
            return
        for token in self._ids(prompt):
            self._num_prompts[token] -= 1
            if not self._num_prompts[token]:
                del self._num_prompts[token]
                self._free.append(self._row_of.pop(token))

    def drop_all(self) -> None:
        """Release the vectors of all prompts."""
        self._num_prompts.clear()
        self._row_of.clear()
        self._free = list(range(0 if self._table is None else len(self._table)))

    def of(self, token_ids: Sequence[int]) -> Tensor:
        """Return the vectors (N, H) of IDs that are kept, on the model's device."""
        assert self._table is not None
        rows = torch.tensor([self._row_of[token] for token in token_ids])
        return self._table[rows.to(self._device)]

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
        rows = [self._free.pop() for _ in token_ids]
        self._table[torch.tensor(rows).to(self._device)] = vectors
        self._row_of.update(zip(token_ids, rows, strict=True))


@contextmanager
def _packed(model: PreTrainedModel) -> Iterator[None]:
    """Use packed attention inside the `with` block.

    The config is set directly, because `set_attn_implementation` would repeat its checks in every
    pass.
    """
    config = model.config.get_text_config(decoder=True)
    before, config._attn_implementation = config._attn_implementation, PACKED
    try:
        yield
    finally:
        config._attn_implementation = before


def _context_length(model: PreTrainedModel) -> int:
    """Return the maximum number of positions.

    Some rotary embeddings change their frequencies once the longest row of a batch exceeds a
    length. For these, return that length, because rows of a batch must not influence each other.
    """
    config = model.config.get_text_config(decoder=True)
    rope = getattr(config, "rope_parameters", None) or {}
    first = (
        rope.get("original_max_position_embeddings")
        if rope.get("rope_type") in ("dynamic", "longrope")
        else None
    )
    return int(first or config.max_position_embeddings)
