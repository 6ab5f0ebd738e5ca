"""Run packed passes through a transformers decoder: the tokens of many sequences in one row.

`ModelRunner` turns the spans that the scheduler chose into the layout that attention needs, and
passes the results to the requests.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from xrec.errors import Failure, ModelError
from xrec.generate.builtin.attention import (
    PACKED,
    Attend,
    Extent,
    PackedLayout,
    Part,
    SharedPrefixes,
    packed_attention,
)
from xrec.generate.builtin.kv_cache import Block, KVCache, KVShape
from xrec.generate.builtin.requests import Request, Slots, Span
from xrec.generate.builtin.sampling import log_likelihoods, mask_failure, next_tokens
from xrec.generate.builtin.scheduler import Scheduler
from xrec.generate.engine import NOT_A_NUMBER, Advance, Completion, EngineReport, failed
from xrec.llm.collaborative import CollaborativeEmbedding, Vocabulary, to_device
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
        kept = 0 if keep is None else _on(device, keep)
        with _packed(self.model):
            output = self.model(
                inputs_embeds=self._embed(token_ids),
                position_ids=_on(device, [positions]),
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
        embedding, device = self.model.get_input_embeddings(), self.model.device
        if not isinstance(embedding, CollaborativeEmbedding):
            embeds: Tensor = embedding(_on(device, [token_ids]))
            return embeds
        positions = [at for at, token in enumerate(token_ids) if token >= self.num_text_tokens]
        text_ids = list(token_ids)
        for position in positions:
            text_ids[position] = 0
        vectors = self.vectors.of([token_ids[at] for at in positions]) if positions else None
        return embedding.embed(_on(device, [text_ids]), _on(device, positions), vectors)

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
            lookups = map(self._embedding.lookup, torch.tensor(new).split(_ADAPTED_AT_ONCE))
            adapted = [self._embedding.adapt(lookup.to(self._device)) for lookup in lookups]
            self._put(new, torch.cat(adapted))

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
        return self._table[_on(self._device, [self._row_of[token] for token in token_ids])]

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
        self._table[_on(self._device, rows)] = vectors
        self._row_of.update(zip(token_ids, rows, strict=True))


def _on(device: torch.device, numbers: Sequence[Any]) -> Tensor:
    """Return int64 numbers on `device`; the host does not wait for the copy."""
    return to_device(torch.tensor(numbers, dtype=torch.long), device)


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


_SHARE_OF_WHOLE_SLOTS = 0.75


class ModelRunner:
    """Runs `model` for the requests in `scheduler`, whose KV cache is in `slots`."""

    def __init__(self, model: PackedModel, scheduler: Scheduler, slots: Slots):
        self._model, self._scheduler, self._slots = model, scheduler, slots

    def prefill(self, spans: list[Span], report: EngineReport) -> list[Advance]:
        """Run a pass over prompts; return the advances of the requests it completes."""
        first, keep = 0, []
        for span in spans:
            keep += [first + index - span.start for index in _kept(span)]
            first += span.stop - span.start
        report.num_computed_prompt_tokens += first
        logits = self._logits(spans, keep)
        requests = [(span, span.sequence) for span in spans if isinstance(span.sequence, Request)]
        parts = zip(requests, logits.split([len(_kept(s)) for s, _ in requests]), strict=True)
        starting: list[tuple[Request, Tensor]] = []
        scored: list[Request] = []
        for (span, request), part in parts:
            if request.given:
                targets = [request.given[index - request.num_rest + 1] for index in _kept(span)]
                request.log_likelihoods += log_likelihoods(part, targets)
                scored += [request] if request.is_computed else []
            elif len(part):
                starting.append((request, part))
        advances = [self._scored(request) for request in scored]
        self._end(scored)
        if starting:
            started = [request for request, _ in starting]
            advances += self._next_tokens(started, torch.cat([part for _, part in starting]))
        return advances

    def decode(self, spans: list[Span], report: EngineReport) -> list[Advance]:
        """Run a decode step; return the advance of each request."""
        report.num_decoded_tokens += len(spans)
        logits = self._logits(spans)
        requests = [span.sequence for span in spans if isinstance(span.sequence, Request)]
        return self._next_tokens(requests, logits)

    def _logits(self, spans: Sequence[Span], keep: list[int] | None = None) -> Tensor:
        """Return the logits of a pass over spans, which must be grouped by block."""
        cache, parts, first = self._slots.cache, [], 0
        for _, group in itertools.groupby(spans, key=lambda span: id(span.sequence.block)):
            members = list(group)
            count = sum(span.stop - span.start for span in members)
            parts.append(_part(members, first, first + count, cache.shape.device))
            first += count
        attend = PackedLayout(cache, _cache_rows(spans, cache), parts).attend
        token_ids = [
            token for span in spans for token in span.sequence.token_ids[span.start : span.stop]
        ]
        logits = self._model.logits(token_ids, _positions(spans), attend, keep)
        self._scheduler.computed(spans)
        return logits

    def _scored(self, request: Request) -> Advance:
        """Return the completion with the likelihoods of a given continuation."""
        values = tuple(request.log_likelihoods)
        if any(map(math.isnan, values)):
            return self._failed(request, NOT_A_NUMBER)
        ids = list(request.given)
        completion = Completion(request.request_id, ids, "given", log_likelihoods=values)
        return Advance(request.request_id, ids, completion)

    def _next_tokens(self, requests: Sequence[Request], logits: Tensor) -> list[Advance]:
        """Append the next token of each request, and remove those whose texts end."""
        advances = [
            self._failed(request, token)
            if isinstance(token, Failure)
            else self._appended(request, token)
            for request, token in zip(requests, next_tokens(requests, logits), strict=True)
        ]
        ended: list[Request] = []
        for request, advance in zip(requests, advances, strict=True):
            if advance.completion is None:
                continue
            if request.text_params.keeps_prompt and advance.completion.failure is None:
                self._scheduler.keep_prompt(request)
            else:
                ended.append(request)
        self._end(ended)
        return advances

    def _appended(self, request: Request, token: int) -> Advance:
        request.token_ids.append(token)
        generated = request.generated
        reason = request.finish_reason(self._model.context_length)
        if reason is None:
            try:
                if request.mask is not None:
                    request.mask.accept(token)
            except Exception as error:  # noqa: BLE001  the caller's code; only this text fails
                return self._failed(request, mask_failure(error))
            return Advance(request.request_id, generated)
        text = generated[:-1] if token in request.stop_token_ids else generated
        return Advance(request.request_id, text, Completion(request.request_id, text, reason))

    def _failed(self, request: Request, failure: Failure) -> Advance:
        """Return the end of a text that cannot continue; clear its slot if it may contain NaN."""
        if failure.reason == "invalid_logits":
            self._slots.clear(request)
        return failed(request.request_id, failure)

    def _end(self, requests: Sequence[Request]) -> None:
        """Remove requests that have ended, and release their vectors."""
        self._scheduler.remove(requests)
        for request in requests:
            self._model.vectors.drop(request.prompt)


def _kept(span: Span) -> range:
    """Return the tokens of a span whose logits are needed: those that predict what follows."""
    if not isinstance(span.sequence, Request):
        return range(0)
    return range(max(span.start, span.sequence.num_rest - 1), span.stop)


def _positions(spans: Sequence[Span]) -> list[int]:
    """Return the positions of a pass's tokens in their prompts."""
    positions: list[int] = []
    for span in spans:
        sequence = span.sequence
        offset = len(sequence.prefix.token_ids) if isinstance(sequence, Request) else 0
        positions += range(offset + span.start, offset + span.stop)
    return positions


def _cache_rows(spans: Sequence[Span], cache: KVCache) -> Tensor:
    """Return the row for each token and head, (T * heads,), in a layer of the cache."""
    heads = cache.shape.num_heads
    firsts: list[int] = []
    lengths: list[int] = []
    for span in spans:
        block = span.sequence.block
        assert block is not None
        first = (block.start + span.sequence.slot * block.slot_length) * heads
        firsts += range(first + span.start, first + span.stop)
        lengths += [block.slot_length] * (span.stop - span.start)
    of_heads = torch.tensor(lengths)[:, None] * torch.arange(heads)
    return to_device((torch.tensor(firsts)[:, None] + of_heads).flatten(), cache.shape.device)


def _part(spans: Sequence[Span], first: int, last: int, device: torch.device) -> Part:
    """Return the part for the spans of one block, which are the tokens `first` to `last`."""
    counts = [span.stop - span.start for span in spans]
    columns = max(counts)
    starts = _on(device, [span.start for span in spans])
    cells = [row * columns + column for row, count in enumerate(counts) for column in range(count)]
    block = spans[0].sequence.block
    assert block is not None
    return Part(
        tokens=slice(first, last),
        own=_extent(
            block, [span.sequence.slot for span in spans], max(span.stop for span in spans), device
        ),
        positions=starts[:, None] + torch.arange(columns, device=device),
        cells=None if columns == 1 else _on(device, cells),
        token_of_cell=None if columns == 1 else _inverse(cells, len(spans) * columns, device),
        prefixes=_shared_prefixes(spans, device),
    )


def _extent(block: Block, slots: Sequence[int], length: int, device: torch.device) -> Extent:
    """Return the first `length` positions of slots, or the whole slots if that is not much more.

    On a CPU, products copy operands with gaps, which takes a quarter to a third of their time.
    Consecutive slots are a slice, so that reading them does not copy.
    """
    first, stop = slots[0], slots[0] + len(slots)
    if list(slots) != list(range(first, stop)):
        return Extent(block, _on(device, slots), length)
    is_much_more = length < _SHARE_OF_WHOLE_SLOTS * block.slot_length
    return Extent(block, slice(first, stop), length if is_much_more else block.slot_length)


def _shared_prefixes(spans: Sequence[Span], device: torch.device) -> SharedPrefixes | None:
    requests = [span.sequence for span in spans if isinstance(span.sequence, Request)]
    if not requests or requests[0].prefix.block is None:
        return None
    slots = sorted({request.prefix.slot for request in requests})
    whole = list(range(slots[0], slots[-1] + 1))
    if 4 * len(whole) <= 5 * len(slots):  # include the few slots in gaps, to read a view
        slots = whole
    index_of = {slot: index for index, slot in enumerate(slots)}
    num_members = Counter(request.prefix.slot for request in requests)
    max_members = max(num_members.values())
    counts: Counter[int] = Counter()
    members = []
    for request in requests:
        slot = request.prefix.slot
        members.append(index_of[slot] * max_members + counts[slot])
        counts[slot] += 1
    lengths = [len(request.prefix.token_ids) for request in requests]
    return SharedPrefixes(
        extent=_extent(requests[0].prefix.block, slots, max(lengths), device),
        members=_on(device, members),
        rows=_inverse(members, len(slots) * max_members, device),
        lengths=_on(device, lengths),
        max_members=max_members,
    )


def _inverse(cells: Sequence[int], size: int, device: torch.device) -> Tensor:
    """Return the index in `cells` of each number below `size`, (size,); 0 for missing ones."""
    inverse = torch.zeros(size, dtype=torch.long)
    inverse[torch.tensor(cells)] = torch.arange(len(cells))
    return to_device(inverse, device)
