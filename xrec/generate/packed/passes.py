"""Runs the passes that the schedule chose through the model, and writes down what they cost."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from xrec.generate.engine_report import EngineReport
from xrec.generate.packed.arena import Arena
from xrec.generate.packed.attention import Kernel
from xrec.generate.packed.layouts import (
    layout_of,
    num_key_cells,
    num_seen_keys,
    positions,
    token_ids,
)
from xrec.generate.packed.model import PackedModel
from xrec.generate.packed.sequences import Row, Span


class Passes:
    """Passes through `model` whose keys and values are in `arena`; attention is `kernel`'s."""

    def __init__(self, model: PackedModel, arena: Arena, kernel: Kernel):
        self._model, self._arena, self._kernel = model, arena, kernel

    def prefill(self, spans: Sequence[Span], report: EngineReport) -> Tensor:
        """Compute a pass over prompts; returns the logits of the tokens `kept` of each span."""
        start, first, keep = seconds_on(self._arena.tensor.device), 0, []
        for span in spans:
            keep += [first + index - span.start for index in kept(span)]
            first += span.stop - span.start
        logits = self._logits(spans, keep, report)
        report.prefill_seconds += seconds_on(logits.device) - start
        report.num_prefill_passes += 1
        report.num_computed_prompt_tokens += first
        return logits

    def decode(self, spans: Sequence[Span], report: EngineReport) -> Tensor:
        """Compute a decode step; returns the logits of all spans, which have one token each."""
        start = seconds_on(self._arena.tensor.device)
        logits = self._logits(spans, None, report)
        report.decode_seconds += seconds_on(logits.device) - start
        report.num_decode_steps += 1
        report.num_decoded_tokens += len(spans)
        return logits

    def _logits(
        self, spans: Sequence[Span], keep: list[int] | None, report: EngineReport
    ) -> Tensor:
        layout = layout_of(spans, self._arena, self._kernel)
        logits = self._model.logits(
            token_ids(spans), positions(spans), layout, keep, not_injected=_not_injected(spans)
        )
        report.num_logits += len(logits)
        report.num_key_cells += num_key_cells(layout)
        report.num_seen_keys += num_seen_keys(spans)
        return logits


def kept(span: Span) -> range:
    """The tokens of a span over a prompt whose logits are needed: they predict what follows it."""
    if not isinstance(span.sequence, Row):
        return range(0)
    return range(max(span.start, span.sequence.num_rest - 1), span.stop)


def seconds_on(device: torch.device) -> float:
    """A clock that waits until the device has done what it was given."""
    if device.type == "cuda" and torch.cuda.is_available():
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _not_injected(spans: Sequence[Span]) -> list[int]:
    """The tokens of sequences whose vectors do not enter the layers."""
    if all(_is_injected(span) for span in spans):
        return []
    flags = [_is_injected(span) for span in spans for _ in range(span.start, span.stop)]
    return [place for place, is_injected in enumerate(flags) if not is_injected]


def _is_injected(span: Span) -> bool:
    sequence = span.sequence
    prefix = sequence.prefix if isinstance(sequence, Row) else sequence
    return prefix.is_injected
