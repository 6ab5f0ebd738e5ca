"""Asks a language model for objects: what is not valid is asked for again, once."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from xrec.config.text import SamplingConfig
from xrec.text.model import (
    LanguageModel,
    Message,
    ObjectT,
    Prompt,
    RawReply,
    Reply,
    ReplyFailure,
)
from xrec.text.parse import parse_reply
from xrec.text.schema import strict_schema

_MOST_QUOTED = 2000
_ASKED_AGAIN = frozenset(
    {"empty_reply", "cut_off", "invalid_json", "invalid_object", "broken_response"}
)


def ask(
    model: LanguageModel, prompts: Sequence[Prompt[ObjectT]], sampling: SamplingConfig
) -> Iterator[Reply[ObjectT]]:
    """Yield one reply for each prompt, those that were asked for twice last.

    A reply that is no valid object is asked for once more, with what was wrong and another seed.
    Raises what `LanguageModel.write` raises.
    """
    again: list[Reply[ObjectT]] = []
    for raw in model.write(prompts, sampling):
        reply = _reply(raw, prompts[raw.index])
        if reply.failure is not None and reply.failure.reason in _ASKED_AGAIN:
            again.append(reply)
        else:
            yield reply
    if not again:
        return
    second = sampling.model_copy(update={"seed": sampling.seed + 1})
    for raw in model.write([_corrected(prompts[first.index], first) for first in again], second):
        first = again[raw.index]
        reply = _reply(raw, prompts[first.index])
        yield replace(reply, index=first.index, usage=first.usage + reply.usage)


def _reply(raw: RawReply, prompt: Prompt[ObjectT]) -> Reply[ObjectT]:
    if raw.failure is not None:
        return Reply(raw.index, None, raw.failure, raw.text, raw.usage)
    found = parse_reply(raw.text, prompt.schema, is_cut=raw.is_cut)
    if isinstance(found, ReplyFailure):
        return Reply(raw.index, None, found, raw.text, raw.usage)
    return Reply(raw.index, found, None, raw.text, raw.usage)


def _corrected(prompt: Prompt[ObjectT], reply: Reply[ObjectT]) -> Prompt[ObjectT]:
    """The prompt that shows the model what it wrote, and says what is wrong with it."""
    assert reply.failure is not None
    if reply.failure.reason == "broken_response":  # which the model did not write
        return prompt
    request = (
        f"This cannot be used: {_said(reply.failure)} Answer once more, briefly, with one JSON "
        f"object and nothing else. It must fit this schema: "
        f"{json.dumps(strict_schema(prompt.schema), ensure_ascii=False)}"
    )
    said = Message("assistant", reply.raw[:_MOST_QUOTED] or "{}")
    return Prompt((*prompt.messages, said, Message("user", request)), prompt.schema)


def _said(failure: ReplyFailure) -> str:
    if failure.reason == "cut_off":
        return "it is too long."
    return f"{failure.message}."
