"""Estimates the prompts and costs of a run with a language model."""

from collections.abc import Iterator, Sequence

from xrec.annotate.annotator import Input, Outlook, Stage
from xrec.annotate.language_model.prompts import Prompts
from xrec.annotate.task import parts_of, refused
from xrec.bulk import added, use_of
from xrec.config import AnnotateConfig, LanguageModelAnnotator
from xrec.text import Message, about_tokens

_TOKENS_AROUND_MESSAGE = 5  # of a chat template, approximately
_NUM_SHOWN = 3  # conversations of each stage

Conversation = tuple[Message, ...]


def forecast(prompts: Prompts, config: AnnotateConfig, outlook: Outlook) -> list[str]:
    """Describe the prompts, tokens and money of a run; show some prompts of each kind."""
    annotator, budget = config.annotator, config.budget.get("tokens")
    assert isinstance(annotator, LanguageModelAnnotator)
    max_tokens = annotator.model.max_tokens
    lines, shown, num_prompts, costs = [], list[str](), 0, dict[str, float]()
    for stage, rows in outlook.samples.items():
        asked = _asked(prompts, annotator, rows)
        # A profile also has extra prompts, each of which leaves out one part of its reviews.
        count = round(outlook.counts[stage] * len(asked) / max(1, len(rows)))
        each = sum(map(_num_tokens, asked)) / max(1, len(asked))
        lines.append(
            f"{stage}: {count:,} prompts of {each:,.0f} tokens, {each * count:,.0f} in all; "
            f"replies of at most {max_tokens:,}, {max_tokens * count:,} in all"
        )
        tokens = {"prompt_tokens": each * count, "reply_tokens": max_tokens * count}
        num_prompts, costs = num_prompts + count, added(costs, tokens)
        shown += _shown(stage, asked[:_NUM_SHOWN])
    total = sum(costs.values())
    ends = budget is not None and total > budget
    lines.append(
        f"in all: {num_prompts:,} prompts, {total:,.0f} tokens at 0.3 per character; identical "
        "prompts are sent once, and prompts with an invalid reply twice"
        + (f"; budget.tokens = {budget:,.0f} ends the run earlier" if ends else "")
    )
    if money := use_of(costs, config.prices).get("money"):
        lines.append(f"cost: at most {money:,.2f} at the configured token prices")
    return lines + shown


def _num_tokens(conversation: Conversation) -> int:
    return sum(about_tokens(each.content) + _TOKENS_AROUND_MESSAGE for each in conversation)


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


def _shown(stage: Stage, conversations: Sequence[Conversation]) -> Iterator[str]:
    """Yield the instruction and example that all prompts of a stage share, and the data of rows."""
    for number, conversation in enumerate(conversations, start=1):
        if number == 1:
            yield f"prompts of {stage}:"
            for message in conversation[:-1]:
                yield from (f"  {message.role}: {line}" for line in message.content.splitlines())
        yield f"  user ({stage} {number}): {conversation[-1].content}"
