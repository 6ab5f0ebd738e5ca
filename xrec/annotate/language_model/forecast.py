"""Describes what a run by a language model would ask and cost."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from xrec.annotate.annotator import Input, Outlook, Stage
from xrec.annotate.language_model.prompts import Prompts
from xrec.annotate.stages import parts_of, refused
from xrec.bulk import use_of
from xrec.config import AnnotateConfig, LanguageModelAnnotator
from xrec.progress import duration
from xrec.text import Message, about_tokens

_TOKENS_AROUND_MESSAGE = 5  # of a chat template, about
_NUM_SHOWN = 3  # conversations of each stage
_COSTS = ("prompt_tokens", "reply_tokens")

Conversation = tuple[Message, ...]


class _Tokens(NamedTuple):
    """Numbers of tokens of prompts and of replies, or their means."""

    prompt: float
    reply: float


def forecast(
    prompts: Prompts, config: AnnotateConfig, chunks_per_process: int, outlook: Outlook
) -> list[str]:
    """Describe the prompts, tokens, time and money of a run; show some prompts of each kind."""
    annotator, budget = config.annotator, config.budget.get("tokens")
    assert isinstance(annotator, LanguageModelAnnotator)
    num_processes = 1 if annotator.model.kind == "endpoint" else config.actors.num_processes
    asked = {stage: _asked(prompts, annotator, rows) for stage, rows in outlook.samples.items()}
    lines, num_prompts, total = [], 0, _Tokens(0, 0)
    for stage, conversations in asked.items():
        # A profile has further prompts, one without each part of its reviews.
        num_sampled = max(1, len(outlook.samples[stage]))
        count = round(outlook.counts[stage] * len(conversations) / num_sampled)
        line, tokens = _stage_line(stage, count, conversations, annotator, outlook)
        lines.append(line)
        num_prompts += count
        total = _Tokens(total.prompt + tokens.prompt, total.reply + tokens.reply)
    ends = budget is not None and sum(total) > budget
    lines += [
        f"in all: {num_prompts:,} prompts, {sum(total):,.0f} tokens; equal prompts are asked once, "
        "and prompts with an invalid reply twice"
        + (f"; budget.tokens = {budget:,.0f} ends the run before" if ends else ""),
        _time(outlook, num_processes * chunks_per_process),
    ]
    costs = dict(zip(_COSTS, total, strict=True))
    if money := use_of(costs, config.prices).get("money"):
        most = "" if outlook.counts.keys() == outlook.rates.keys() else "at most "
        lines.append(f"cost: {most}{money:,.2f} by the prices of tokens")
    for stage, conversations in asked.items():
        lines += _shown(stage, conversations[:_NUM_SHOWN])
    return lines


def _stage_line(
    stage: Stage,
    num_prompts: int,
    conversations: Sequence[Conversation],
    annotator: LanguageModelAnnotator,
    outlook: Outlook,
) -> tuple[str, _Tokens]:
    """Describe the prompts of a stage; also return their tokens, measured if it has started."""
    rate = outlook.rates.get(stage)
    mean = _Tokens(_estimated(conversations), annotator.model.sampling.max_tokens)
    source, most = "at 0.3 tokens a character", "at most "
    if rate:
        source, most = f"measured on {rate.num_done:,} texts", ""
    if rate and "prompt_tokens" in rate.costs:
        num_asked = rate.num_done * num_prompts / outlook.counts[stage]
        mean = _Tokens(*(rate.costs[name] / num_asked for name in _COSTS))
    total = _Tokens(mean.prompt * num_prompts, mean.reply * num_prompts)
    line = (
        f"{stage}: {num_prompts:,} prompts of {mean.prompt:,.0f} tokens, {total.prompt:,.0f} in "
        f"all; replies of {most}{mean.reply:,.0f}, {total.reply:,.0f} in all ({source})"
    )
    return line, total


def _asked(
    prompts: Prompts, annotator: LanguageModelAnnotator, rows: Sequence[Input]
) -> list[Conversation]:
    """Return the conversations of rows, each followed by those without parts of its reviews."""
    inputs = [
        part for row in rows for part in (row, *(p.rest for p in parts_of(row, annotator.folds)))
    ]
    return [prompts.of(row) for row in inputs if refused(row) is None]


def _estimated(conversations: Sequence[Conversation]) -> float:
    """Return the mean number of tokens of a prompt."""
    shown = sum(
        about_tokens(message.content) + _TOKENS_AROUND_MESSAGE
        for conversation in conversations
        for message in conversation
    )
    return shown / max(1, len(conversations))


def _time(outlook: Outlook, num_at_once: int) -> str:
    if not outlook.rates:
        return "time: not measured yet; limit=50 measures it, and the next run continues from there"
    missing = [stage for stage in outlook.counts if stage not in outlook.rates]
    seconds = sum(
        rate.costs_of(outlook.counts[stage])["seconds"] for stage, rate in outlook.rates.items()
    )
    more = f", and {' and '.join(missing)}, not measured yet" if missing else ""
    return f"time: {duration(seconds / num_at_once)}, as measured{more}"


def _shown(stage: Stage, conversations: Sequence[Conversation]) -> Iterator[str]:
    """Yield the instruction and example that all prompts of a kind share, and the rows."""
    if not conversations:
        return
    yield f"prompts of {stage}:"
    for message in conversations[0][:-1]:
        yield from (f"  {message.role}: {line}" for line in message.content.splitlines())
    for number, conversation in enumerate(conversations, start=1):
        yield f"  user ({stage} {number}): {conversation[-1].content}"
