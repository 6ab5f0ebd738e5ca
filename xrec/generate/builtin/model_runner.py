"""Run the passes that the scheduler chose, and pass the results to the requests.

The spans of a pass are turned into the layout that attention needs.
"""

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from xrec.generate.builtin.attention import Extent, PackedLayout, Part, SharedPrefixes
from xrec.generate.builtin.kv_cache import Block, KVCache
from xrec.generate.builtin.model import PackedModel
from xrec.generate.builtin.requests import Request, Span
from xrec.generate.builtin.sampling import log_likelihoods, mask_failure, next_tokens
from xrec.generate.builtin.scheduler import Scheduler
from xrec.generate.builtin.slots import Slots
from xrec.generate.engine import (
    NOT_A_NUMBER,
    Advance,
    Completion,
    EngineReport,
    Failure,
    failed,
)

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
    return (torch.tensor(firsts)[:, None] + of_heads).flatten().to(cache.shape.device)


def _part(spans: Sequence[Span], first: int, last: int, device: torch.device) -> Part:
    """Return the part for the spans of one block, which are the tokens `first` to `last`."""
    counts = [span.stop - span.start for span in spans]
    columns = max(counts)
    starts = torch.tensor([span.start for span in spans], device=device)
    cells = [row * columns + column for row, count in enumerate(counts) for column in range(count)]
    block = spans[0].sequence.block
    assert block is not None
    return Part(
        tokens=slice(first, last),
        own=_extent(
            block, [span.sequence.slot for span in spans], max(span.stop for span in spans), device
        ),
        positions=starts[:, None] + torch.arange(columns, device=device),
        cells=None if columns == 1 else torch.tensor(cells, device=device),
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
        return Extent(block, torch.tensor(slots, device=device), length)
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
        members=torch.tensor(members, device=device),
        rows=_inverse(members, len(slots) * max_members, device),
        lengths=torch.tensor(lengths, device=device),
        max_members=max_members,
    )


def _inverse(cells: Sequence[int], size: int, device: torch.device) -> Tensor:
    """Return the index in `cells` of each number below `size`, (size,); 0 for missing ones."""
    inverse = torch.zeros(size, dtype=torch.long)
    inverse[torch.tensor(cells)] = torch.arange(len(cells))
    return inverse.to(device)
