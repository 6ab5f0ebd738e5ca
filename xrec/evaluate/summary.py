"""The evaluation on a console: a table of the metrics, and explanations above their references."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby

from xrec.evaluate.bootstrap import Estimate
from xrec.evaluate.descriptions import DESCRIPTIONS, format_interval, format_value
from xrec.evaluate.scores import Coverage, ScoredPair

_WIDTH = 100
_MARGIN = 13  # columns of "explanation  "


def summary_lines(metrics: Mapping[str, Estimate]) -> list[str]:
    """A table with a line for each metric: label, value and 95 % interval."""
    labels = max((len(DESCRIPTIONS[name].label) for name in metrics), default=0)
    values = {name: format_value(name, estimate) for name, estimate in metrics.items()}
    width = max(map(len, values.values()), default=0)
    lines: list[str] = []
    for group, names in groupby(metrics, key=lambda name: DESCRIPTIONS[name].group):
        lines.append(group)
        for name in names:
            interval = format_interval(name, metrics[name])
            label, value = f"{DESCRIPTIONS[name].label:<{labels}}", f"{values[name]:>{width}}"
            lines.append(f"  {label}  {value}  {interval and f'({interval})'}".rstrip())
    return lines


def coverage_lines(coverage: Coverage) -> list[str]:
    """How many pairs have no text, and for which reasons, wrapped to 100 columns."""
    return textwrap.wrap(_printable(coverage.sentence), width=_WIDTH)


def example_lines(pairs: Sequence[ScoredPair], num_examples: int) -> list[str]:
    """The first `num_examples` pairs: explanation and reference, wrapped to 100 columns."""
    lines: list[str] = []
    for pair in pairs[:num_examples]:
        title = f" ({pair.item_title})" if pair.item_title else ""
        lines.append(_printable(f"user {pair.user_id}, item {pair.item_id}{title}")[:_WIDTH])
        lines += [
            *_labelled("explanation", pair.text),
            *_labelled("reference", pair.reference),
            "",
        ]
    return lines[:-1]


def _labelled(label: str, text: str) -> list[str]:
    wrapped = textwrap.wrap(_printable(text), width=_WIDTH - _MARGIN) or ["(empty)"]
    return [f"{label if index == 0 else '':<{_MARGIN}}{line}" for index, line in enumerate(wrapped)]


def _printable(text: str) -> str:
    """Generated text may hold anything; control characters would act on the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
