"""Estimates the prompts and costs of a run with a language model."""

from xrec.annotate.annotator import Outlook
from xrec.annotate.language_model.prompts import Prompts
from xrec.annotate.task import parts_of, refused
from xrec.bulk import added, use_of
from xrec.config import AnnotateConfig, LanguageModelAnnotator
from xrec.text import about_tokens

_TOKENS_AROUND_MESSAGE = 5  # of a chat template, approximately
_NUM_SHOWN = 3  # conversations of each stage


def forecast(prompts: Prompts, config: AnnotateConfig, outlook: Outlook) -> list[str]:
    """Describe the prompts, tokens and money of a run; show some prompts of each kind."""
    annotator, budget = config.annotator, config.budget.get("tokens")
    assert isinstance(annotator, LanguageModelAnnotator)
    max_tokens = annotator.model.max_tokens
    lines, shown, num_prompts, costs = list[str](), list[str](), 0, dict[str, float]()
    for stage, rows in outlook.samples.items():
        # A profile also has extra prompts, each of which leaves out one part of its reviews.
        parts = [(row, *(rest for _, rest in parts_of(row, annotator.folds))) for row in rows]
        asked = [prompts.of(each) for of_row in parts for each in of_row if refused(each) is None]
        count = round(outlook.counts[stage] * len(asked) / max(1, len(rows)))
        messages = [message.content for conversation in asked for message in conversation]
        num_tokens = sum(about_tokens(each) + _TOKENS_AROUND_MESSAGE for each in messages)
        mean = num_tokens / max(1, len(asked))
        lines.append(
            f"{stage}: {count:,} prompts of {mean:,.0f} tokens, {mean * count:,.0f} in all; "
            f"replies of at most {max_tokens:,}, {max_tokens * count:,} in all"
        )
        tokens = {"prompt_tokens": mean * count, "reply_tokens": max_tokens * count}
        num_prompts, costs = num_prompts + count, added(costs, tokens)
        if asked:  # all prompts of a stage share the instruction and the example
            shown.append(f"prompts of {stage}:")
            for each in asked[0][:-1]:
                shown += [f"  {each.role}: {line}" for line in each.content.splitlines()]
        for number, conversation in enumerate(asked[:_NUM_SHOWN], start=1):
            shown.append(f"  user ({stage} {number}): {conversation[-1].content}")
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
