"""What a run by a language model would ask and cost, as lines for a reader."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from xrec.annotate.annotator import Input, Outlook, Stage
from xrec.annotate.language_model.prompts import Prompts
from xrec.annotate.stages import parts_of, refused
from xrec.bulk import Amounts, use_of
from xrec.config import LanguageModelAnnotator
from xrec.progress import duration
from xrec.text import Message, about_tokens

_TOKENS_AROUND_MESSAGE = 5
"""Of a chat template, about."""

_NUM_SHOWN = 3  # conversations of each stage

Conversation = tuple[Message, ...]


class _Tokens(NamedTuple):
    """Of prompts and of replies; a mean has parts of tokens."""

    shown: float
    said: float


def forecast(
    prompts: Prompts,
    annotator: LanguageModelAnnotator,
    max_tokens: float | None,
    num_at_once: int,
    prices: Amounts,
    outlook: Outlook,
) -> list[str]:
    """Prompts, tokens, time and money; then the prompts of some rows of each kind.

    max_tokens: the budget. num_at_once: chunks that all processes together do at the same time.
    """
    asked = {stage: _asked(prompts, annotator, rows) for stage, rows in outlook.samples.items()}
    lines, num_prompts, spent = [], 0, _Tokens(0, 0)
    for stage, conversations in asked.items():
        rate, num_texts = outlook.rates.get(stage), outlook.counts[stage]
        # A profile has further prompts, one without each part of its reviews.
        count = round(num_texts * len(conversations) / max(1, len(outlook.samples[stage])))
        each = _Tokens(_estimated(conversations), annotator.model.sampling.max_tokens)
        how, most = "at 0.3 tokens a character", "at most "
        if rate:
            how, most = f"measured on {rate.num_done:,} texts", ""
        if rate and "prompt_tokens" in rate.costs:
            names, num_asked = ("prompt_tokens", "reply_tokens"), rate.num_done * count / num_texts
            each = _Tokens(*(rate.costs[name] / num_asked for name in names))
        total = _Tokens(each.shown * count, each.said * count)
        num_prompts += count
        spent = _Tokens(spent.shown + total.shown, spent.said + total.said)
        lines.append(
            f"{stage}: {count:,} prompts of {each.shown:,.0f} tokens, {total.shown:,.0f} in all; "
            f"replies of {most}{each.said:,.0f}, {total.said:,.0f} in all ({how})"
        )
    ends = max_tokens is not None and sum(spent) > max_tokens
    lines += [
        f"in all: {num_prompts:,} prompts, {sum(spent):,.0f} tokens; equal prompts are asked once, "
        "and once more where a reply is not valid"
        + (f"; budget.tokens = {max_tokens:,.0f} ends the run before" if ends else ""),
        _time(outlook, num_at_once),
    ]
    tokens = {"prompt_tokens": spent.shown, "reply_tokens": spent.said}
    if money := use_of(tokens, prices).get("money"):
        most = "" if outlook.counts.keys() == outlook.rates.keys() else "at most "
        lines.append(f"cost: {most}{money:,.2f} by the prices of tokens")
    for stage, conversations in asked.items():
        lines += _shown(stage, conversations[:_NUM_SHOWN])
    return lines


def _asked(
    prompts: Prompts, annotator: LanguageModelAnnotator, rows: Sequence[Input]
) -> list[Conversation]:
    """The conversations of some rows, each followed by those without parts of its reviews."""
    inputs = ([row, *(part.rest for part in parts_of(row, annotator.folds))] for row in rows)
    return [prompts.of(each) for all_ in inputs for each in all_ if refused(each) is None]


def _estimated(conversations: Sequence[Conversation]) -> float:
    """The mean tokens of a prompt."""
    shown = sum(
        about_tokens(message.content) + _TOKENS_AROUND_MESSAGE
        for conversation in conversations
        for message in conversation
    )
    return shown / max(1, len(conversations))


def _time(outlook: Outlook, num_at_once: int) -> str:
    if not outlook.rates:
        return "time: not measured yet; limit=50 measures it, and the run goes on from there"
    missing = [stage for stage in outlook.counts if stage not in outlook.rates]
    seconds = sum(
        rate.costs_of(outlook.counts[stage])["seconds"] for stage, rate in outlook.rates.items()
    )
    more = f", and {' and '.join(missing)}, not measured yet" if missing else ""
    return f"time: {duration(seconds / num_at_once)}, as measured{more}"


def _shown(stage: Stage, conversations: Sequence[Conversation]) -> Iterator[str]:
    """The instruction and example that all prompts of a kind begin with, and the rows."""
    if not conversations:
        return
    yield f"prompts of {stage}:"
    for message in conversations[0][:-1]:
        yield from (f"  {message.role}: {line}" for line in message.content.splitlines())
    for number, conversation in enumerate(conversations, start=1):
        yield f"  user ({stage} {number}): {conversation[-1].content}"
