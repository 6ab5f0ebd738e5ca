"""Computes passes and gives rows what they bring: next tokens, likelihoods, ends of texts."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from xrec.generate.engine import Advance, Completion, Failure
from xrec.generate.engine_report import EngineReport
from xrec.generate.packed.model import PackedModel
from xrec.generate.packed.next_tokens import NOT_A_NUMBER, log_likelihoods, next_tokens
from xrec.generate.packed.passes import Passes, kept, seconds_on
from xrec.generate.packed.schedule import Schedule
from xrec.generate.packed.sequences import Request, Row, Span
from xrec.generate.packed.slots import Slots


class Writing:
    """Writes the texts of the rows of `schedule`, whose keys and values are in `slots`."""

    def __init__(self, model: PackedModel, schedule: Schedule, slots: Slots, passes: Passes):
        self._model, self._schedule, self._slots, self._passes = model, schedule, slots, passes

    def prefill(self, spans: list[Span], report: EngineReport) -> list[Advance]:
        """Compute a pass over prompts; returns what it gave to the rows whose prompts end in it."""
        logits = self._passes.prefill(spans, report)
        self._schedule.computed(spans)
        rows = [(span, span.sequence) for span in spans if isinstance(span.sequence, Row)]
        self.let_go([row for _, row in rows if row.is_computed and row.request.retry is None])
        parts = zip(rows, logits.split([len(kept(span)) for span, _ in rows]), strict=True)
        starting: list[tuple[Row, Tensor]] = []
        given: list[Row] = []
        for (span, row), part in parts:
            if row.request.given:
                self._weigh(span, row, part, report)
                given += [row] if row.is_computed else []
            elif len(part):
                starting.append((row, part))
        advances = [self._weighed(row, report) for row in given]
        self._schedule.remove(given)
        if starting:
            first = torch.cat([part for _, part in starting])
            advances += self._next_tokens([row for row, _ in starting], first, report)
        return advances

    def _weigh(self, span: Span, row: Row, logits: Tensor, report: EngineReport) -> None:
        """Add the likelihoods of the tokens of a continuation that a span predicts."""
        start = seconds_on(logits.device)
        targets = [row.request.given[index - row.num_rest + 1] for index in kept(span)]
        row.log_likelihoods += log_likelihoods(logits, targets)
        report.sampling_seconds += seconds_on(logits.device) - start

    def _weighed(self, row: Row, report: EngineReport) -> Advance:
        """The end of a text that is given."""
        request, values = row.request, tuple(row.log_likelihoods)
        if any(map(math.isnan, values)):
            return self._failed(row, NOT_A_NUMBER, report)
        ids = list(request.given)
        completion = Completion(request.request_id, ids, "given", log_likelihoods=values)
        return Advance(request.request_id, ids, completion)

    def decode(self, spans: list[Span], report: EngineReport) -> list[Advance]:
        """Compute a decode step; returns what it gave to each row."""
        logits = self._passes.decode(spans, report)
        self._schedule.computed(spans)
        rows = [span.sequence for span in spans if isinstance(span.sequence, Row)]
        return self._next_tokens(rows, logits, report)

    def _next_tokens(
        self, rows: Sequence[Row], logits: Tensor, report: EngineReport
    ) -> list[Advance]:
        """Give each row its next token, and remove the rows whose texts end."""
        start = seconds_on(logits.device)
        tokens = next_tokens(rows, logits)
        report.sampling_seconds += seconds_on(logits.device) - start
        advances = [
            self._failed(row, token, report)
            if isinstance(token, Failure)
            else self._appended(row, token)
            for row, token in zip(rows, tokens, strict=True)
        ]
        ended = [
            row
            for row, advance in zip(rows, advances, strict=True)
            if advance.completion is not None
        ]
        self._schedule.remove(ended)
        self.let_go([row for row in ended if row.request.retry is not None])
        return advances

    def _appended(self, row: Row, token: int) -> Advance:
        row.token_ids.append(token)
        request = row.request
        num_left = self._model.context_length - len(row.prefix.token_ids) - len(row.token_ids)
        generated = row.generated
        reason = request.stopping.reason(generated, num_left)
        if reason is None:
            if row.mask is not None:
                row.mask.accept(token)
            return Advance(request.request_id, generated, number=row.number)
        text = request.stopping.without_end(generated)
        completion = Completion(request.request_id, text, reason, number=row.number)
        if request.retry and not row.is_second and request.retry.is_refused(completion):
            row.begin_again()
            return Advance(request.request_id, [], number=row.number)
        return Advance(request.request_id, text, completion, row.number)

    def _failed(self, row: Row, failure: Failure, report: EngineReport) -> Advance:
        """The end of a text that cannot go on; what is not a number must not stay in memory."""
        report.num_failed += 1
        if failure.reason == "invalid_logits":
            self._slots.clear(row)
        return failed_text(row.request, row.number, failure)

    def let_go(self, rows: Sequence[Row]) -> None:
        """The prompts of rows are computed, or need not be: their vectors are needed no more.

        Those of a request with a retry are needed until its text has ended.
        """
        for row in rows:
            row.request.num_uncomputed -= 1
            if not row.request.num_uncomputed:
                self._model.vectors.drop(row.request.prompt)


def failed_text(request: Request, number: int, failure: Failure) -> Advance:
    """The end of a text of a request that cannot be completed."""
    completion = Completion(request.request_id, [], "failed", failure, number)
    return Advance(request.request_id, [], completion, number)
