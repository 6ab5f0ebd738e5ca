"""What a run by a language model would ask and cost, as lines for a reader."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from xrec.annotate.annotator import Input, Outlook, Stage
from xrec.annotate.language_model.prompts import Prompts
from xrec.annotate.stages import parts_of, refused
from xrec.bulk import Rate
from xrec.bulk.driver import Amounts, use_of
from xrec.config.annotate import LanguageModelAnnotator
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


@dataclass(frozen=True)
class Forecast:
    """Tells what is to be asked.

    num_at_once: chunks that all processes together do at the same time.
    """

    prompts: Prompts
    annotator: LanguageModelAnnotator
    max_tokens: float | None
    num_at_once: int
    prices: Amounts

    def lines(self, outlook: Outlook) -> Iterator[str]:
        """Prompts, tokens, time and money; then the prompts of some rows of each kind."""
        asked = {stage: self._asked(rows) for stage, rows in outlook.samples.items()}
        num_prompts, spent = 0, _Tokens(0, 0)
        for stage, conversations in asked.items():
            rate, num_rows = outlook.rates.get(stage), len(outlook.samples[stage])
            # A profile has further prompts, one without each part of its reviews.
            count = round(outlook.counts[stage] * len(conversations) / max(1, num_rows))
            each = self._each(conversations, rate, count / max(1, outlook.counts[stage]))
            total = _Tokens(each.shown * count, each.said * count)
            num_prompts += count
            spent = _Tokens(spent.shown + total.shown, spent.said + total.said)
            yield self._line(stage, count, each, total, rate)
        yield self._sum(num_prompts, spent)
        yield self._time(outlook)
        tokens = {"prompt_tokens": spent.shown, "reply_tokens": spent.said}
        if money := use_of(tokens, self.prices).get("money"):
            most = "" if outlook.counts.keys() == outlook.rates.keys() else "at most "
            yield f"cost: {most}{money:,.2f} by the prices of tokens"
        for stage, conversations in asked.items():
            yield from _shown(stage, conversations[:_NUM_SHOWN])

    def _asked(self, rows: Sequence[Input]) -> list[Conversation]:
        """The conversations of some rows, each followed by those without parts of its reviews."""
        folds = self.annotator.folds
        inputs = ([row, *(part.rest for part in parts_of(row, folds))] for row in rows)
        return [self.prompts.of(each) for all_ in inputs for each in all_ if refused(each) is None]

    def _each(
        self, conversations: Sequence[Conversation], rate: Rate | None, prompts_per_text: float
    ) -> _Tokens:
        """The mean tokens of a prompt and a reply: as measured, or the sample's and the most."""
        if rate is not None and "prompt_tokens" in rate.costs:
            names, num_asked = ("prompt_tokens", "reply_tokens"), rate.num_done * prompts_per_text
            return _Tokens(*(rate.costs[name] / num_asked for name in names))
        shown = sum(
            about_tokens(message.content) + _TOKENS_AROUND_MESSAGE
            for conversation in conversations
            for message in conversation
        )
        longest = self.annotator.model.sampling.max_tokens
        return _Tokens(shown / max(1, len(conversations)), longest)

    def _line(
        self, stage: Stage, num_prompts: int, each: _Tokens, total: _Tokens, rate: Rate | None
    ) -> str:
        how, most = "at 0.3 tokens a character", "at most "
        if rate:
            how, most = f"measured on {rate.num_done:,} texts", ""
        return (
            f"{stage}: {num_prompts:,} prompts of {each.shown:,.0f} tokens, "
            f"{total.shown:,.0f} in all; replies of {most}"
            f"{each.said:,.0f}, {total.said:,.0f} in all ({how})"
        )

    def _sum(self, num_prompts: int, spent: _Tokens) -> str:
        limit = self.max_tokens
        ends = limit is not None and sum(spent) > limit
        return (
            f"in all: {num_prompts:,} prompts, {sum(spent):,.0f} tokens; "
            "equal prompts are asked once, and once more where a reply is not valid"
            + (f"; budget.tokens = {limit:,.0f} ends the run before" if ends else "")
        )

    def _time(self, outlook: Outlook) -> str:
        if not outlook.rates:
            return "time: not measured yet; limit=50 measures it, and the run goes on from there"
        missing = [stage for stage in outlook.counts if stage not in outlook.rates]
        seconds = sum(
            rate.costs_of(outlook.counts[stage])["seconds"] for stage, rate in outlook.rates.items()
        )
        more = f", and {' and '.join(missing)}, not measured yet" if missing else ""
        return f"time: {duration(seconds / self.num_at_once)}, as measured{more}"


def _shown(stage: Stage, conversations: Sequence[Conversation]) -> Iterator[str]:
    """The instruction and example that all prompts of a kind begin with, and the rows."""
    if not conversations:
        return
    yield f"prompts of {stage}:"
    for message in conversations[0][:-1]:
        yield from (f"  {message.role}: {line}" for line in message.content.splitlines())
    for number, conversation in enumerate(conversations, start=1):
        yield f"  user ({stage} {number}): {conversation[-1].content}"
