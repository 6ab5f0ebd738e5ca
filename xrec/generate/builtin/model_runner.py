"""Computes the passes that the scheduler chose, and gives requests what they bring."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from xrec.generate.builtin.layouts import (
    layout_of,
    num_key_cells,
    num_seen_keys,
    positions,
    token_ids,
)
from xrec.generate.builtin.model import PackedModel
from xrec.generate.builtin.requests import Request, Span
from xrec.generate.builtin.sampling import NOT_A_NUMBER, log_likelihoods, next_tokens
from xrec.generate.builtin.scheduler import Scheduler
from xrec.generate.builtin.slots import Slots
from xrec.generate.engine import Advance, Completion, EngineReport, Failure, failed


class ModelRunner:
    """Runs `model` for the requests of `scheduler`, whose KV cache is in `slots`."""

    def __init__(self, model: PackedModel, scheduler: Scheduler, slots: Slots):
        self._model, self._scheduler, self._slots = model, scheduler, slots

    def prefill(self, spans: list[Span], report: EngineReport) -> list[Advance]:
        """Compute a pass over prompts; returns what it gave to the requests that end in it."""
        first, keep = 0, []
        for span in spans:
            keep += [first + index - span.start for index in _kept(span)]
            first += span.stop - span.start
        report.num_computed_prompt_tokens += first
        logits = self._logits(spans, keep, report)
        found = [(span, span.sequence) for span in spans if isinstance(span.sequence, Request)]
        self.let_go([one for _, one in found if one.is_computed and one.retry is None])
        parts = zip(found, logits.split([len(_kept(span)) for span, _ in found]), strict=True)
        starting: list[tuple[Request, Tensor]] = []
        given: list[Request] = []
        for (span, request), part in parts:
            if request.given:
                targets = [request.given[index - request.num_rest + 1] for index in _kept(span)]
                request.log_likelihoods += log_likelihoods(part, targets)
                given += [request] if request.is_computed else []
            elif len(part):
                starting.append((request, part))
        advances = [self._weighed(request, report) for request in given]
        self._scheduler.remove(given)
        if starting:
            begun = [request for request, _ in starting]
            advances += self._next_tokens(begun, torch.cat([part for _, part in starting]), report)
        return advances

    def decode(self, spans: list[Span], report: EngineReport) -> list[Advance]:
        """Compute a decode step; returns what it gave to each request."""
        report.num_decoded_tokens += len(spans)
        logits = self._logits(spans, None, report)
        requests = [span.sequence for span in spans if isinstance(span.sequence, Request)]
        return self._next_tokens(requests, logits, report)

    def _logits(
        self, spans: Sequence[Span], keep: list[int] | None, report: EngineReport
    ) -> Tensor:
        layout = layout_of(spans, self._slots.cache)
        logits = self._model.logits(
            token_ids(spans), positions(spans), layout, keep, not_injected=_not_injected(spans)
        )
        report.num_logits += len(logits)
        report.num_key_cells += num_key_cells(layout)
        report.num_seen_keys += num_seen_keys(spans)
        self._scheduler.computed(spans)
        return logits

    def _weighed(self, request: Request, report: EngineReport) -> Advance:
        """The end of a text that is given."""
        values = tuple(request.log_likelihoods)
        if any(map(math.isnan, values)):
            return self._failed(request, NOT_A_NUMBER, report)
        ids = list(request.given)
        completion = Completion(request.request_id, ids, "given", log_likelihoods=values)
        return Advance(request.request_id, ids, completion)

    def _next_tokens(
        self, requests: Sequence[Request], logits: Tensor, report: EngineReport
    ) -> list[Advance]:
        """Give each request its next token, and remove those whose texts end."""
        advances = [
            self._failed(request, token, report)
            if isinstance(token, Failure)
            else self._appended(request, token)
            for request, token in zip(requests, next_tokens(requests, logits), strict=True)
        ]
        ended = [
            request
            for request, advance in zip(requests, advances, strict=True)
            if advance.completion is not None
        ]
        self._scheduler.remove(ended)
        self.let_go(ended)
        return advances

    def _appended(self, request: Request, token: int) -> Advance:
        request.token_ids.append(token)
        num_used = len(request.prefix.token_ids) + len(request.token_ids)
        generated = request.generated
        reason = request.stopping.reason(generated, self._model.context_length - num_used)
        if reason is None:
            if request.mask is not None:
                request.mask.accept(token)
            return Advance(request.request_id, generated)
        text = request.stopping.without_end(generated)
        completion = Completion(request.request_id, text, reason)
        if request.retry and request.retry.is_refused(completion):
            request.begin_again()
            return Advance(request.request_id, [])
        return Advance(request.request_id, text, completion)

    def _failed(self, request: Request, failure: Failure, report: EngineReport) -> Advance:
        """The end of a text that cannot go on; what is not a number must not stay in memory."""
        report.num_failed += 1
        if failure.reason == "invalid_logits":
            self._slots.clear(request)
        return failed(request.request_id, failure)

    def let_go(self, requests: Sequence[Request]) -> None:
        """The prompts of requests are computed, or need not be: their vectors are needed no more.

        Those of a request with a retry are needed until its text has ended.
        """
        for request in requests:
            if request.has_vectors:
                request.has_vectors = False
                self._model.vectors.drop(request.prompt)


def _kept(span: Span) -> range:
    """The tokens of a span over a prompt whose logits are needed: they predict what follows it."""
    if not isinstance(span.sequence, Request):
        return range(0)
    return range(max(span.start, span.sequence.num_rest - 1), span.stop)


def _not_injected(spans: Sequence[Span]) -> list[int]:
    """The tokens of sequences whose vectors do not enter the layers."""
    if all(_is_injected(span) for span in spans):
        return []
    flags = [_is_injected(span) for span in spans for _ in range(span.start, span.stop)]
    return [place for place, is_injected in enumerate(flags) if not is_injected]


def _is_injected(span: Span) -> bool:
    sequence = span.sequence
    prefix = sequence.prefix if isinstance(sequence, Request) else sequence
    return prefix.is_injected
