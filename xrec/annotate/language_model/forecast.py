"""Estimates the prompts and costs of a run with a language model."""

from collections.abc import Iterator, Sequence

from xrec.annotate.annotator import Input, Outlook, Stage
from xrec.annotate.language_model.prompts import Prompts
from xrec.annotate.stages import parts_of, refused
from xrec.bulk import added, use_of
from xrec.config import AnnotateConfig, LanguageModelAnnotator
from xrec.progress import duration
from xrec.text import Message, about_tokens

_TOKENS_AROUND_MESSAGE = 5  # of a chat template, approximately
_NUM_SHOWN = 3  # conversations of each stage
_COSTS = ("prompt_tokens", "reply_tokens")

Conversation = tuple[Message, ...]


def forecast(
    prompts: Prompts, config: AnnotateConfig, chunks_per_process: int, outlook: Outlook
) -> list[str]:
    """Describe the prompts, tokens, time and money of a run; show some prompts of each kind."""
    annotator, budget = config.annotator, config.budget.get("tokens")
    assert isinstance(annotator, LanguageModelAnnotator)
    num_processes = 1 if annotator.model.kind == "endpoint" else config.actors.num_processes
    asked = {stage: _asked(prompts, annotator, rows) for stage, rows in outlook.samples.items()}
    lines, num_prompts, costs = [], 0, dict[str, float]()
    for stage, conversations in asked.items():
        # A profile also has extra prompts, each of which leaves out one part of its reviews.
        num_sampled = max(1, len(outlook.samples[stage]))
        count = round(outlook.counts[stage] * len(conversations) / num_sampled)
        rate = outlook.rates.get(stage)
        tokens = _tokens(count, conversations, annotator.model.sampling.max_tokens)
        most = "" if rate else "at most "
        source = f"measured on {rate.num_done:,} texts" if rate else "at 0.3 tokens per character"
        if rate and "prompt_tokens" in rate.costs:
            tokens = {name: rate.costs_of(outlook.counts[stage])[name] for name in _COSTS}
        each = [total / max(1, count) for total in tokens.values()]
        lines.append(
            f"{stage}: {count:,} prompts of {each[0]:,.0f} tokens, {tokens['prompt_tokens']:,.0f} "
            f"in all; replies of {most}{each[1]:,.0f}, {tokens['reply_tokens']:,.0f} in all "
            f"({source})"
        )
        num_prompts, costs = num_prompts + count, added(costs, tokens)
    total = sum(costs.values())
    ends = budget is not None and total > budget
    lines += [
        f"in all: {num_prompts:,} prompts, {total:,.0f} tokens; identical prompts are sent once, "
        "and prompts with an invalid reply twice"
        + (f"; budget.tokens = {budget:,.0f} ends the run earlier" if ends else ""),
        _time(outlook, num_processes * chunks_per_process),
    ]
    if money := use_of(costs, config.prices).get("money"):
        most = "" if outlook.counts.keys() == outlook.rates.keys() else "at most "
        lines.append(f"cost: {most}{money:,.2f} at the configured token prices")
    for stage, conversations in asked.items():
        lines += _shown(stage, conversations[:_NUM_SHOWN])
    return lines


def _tokens(num_prompts: int, sampled: Sequence[Conversation], max_tokens: int) -> dict[str, float]:
    """Estimate the tokens of prompts like the sampled ones, and of their replies."""
    messages = [message for conversation in sampled for message in conversation]
    num_shown = sum(about_tokens(each.content) + _TOKENS_AROUND_MESSAGE for each in messages)
    totals = (num_shown / max(1, len(sampled)) * num_prompts, max_tokens * num_prompts)
    return dict(zip(_COSTS, totals, strict=True))


def _asked(
    prompts: Prompts, annotator: LanguageModelAnnotator, rows: Sequence[Input]
) -> list[Conversation]:
    """Return each row's conversation, followed by those that leave out a part of its reviews."""
    inputs = [
        part
        for row in rows
        for part in (row, *(rest for _, rest in parts_of(row, annotator.folds)))
    ]
    return [prompts.of(row) for row in inputs if refused(row) is None]


def _time(outlook: Outlook, num_at_once: int) -> str:
    if not outlook.rates:
        return "time: not measured yet; limit=50 measures it, and the next run continues from there"
    missing = [stage for stage in outlook.counts if stage not in outlook.rates]
    seconds = sum(
        rate.costs_of(outlook.counts[stage])["seconds"] for stage, rate in outlook.rates.items()
    )
    more = f", plus {' and '.join(missing)}, not measured yet" if missing else ""
    return f"time: {duration(seconds / num_at_once)}, as measured{more}"


def _shown(stage: Stage, conversations: Sequence[Conversation]) -> Iterator[str]:
    """Yield the instruction and example that all prompts of a stage share, and the data of rows."""
    if not conversations:
        return
    yield f"prompts of {stage}:"
    for message in conversations[0][:-1]:
        yield from (f"  {message.role}: {line}" for line in message.content.splitlines())
    for number, conversation in enumerate(conversations, start=1):
        yield f"  user ({stage} {number}): {conversation[-1].content}"
