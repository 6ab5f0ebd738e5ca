"""Makes an object of what a language model wrote; a library mends broken JSON."""

import re
from contextlib import suppress
from typing import Any

import json_repair
from pydantic import ValidationError

from xrec.text.model import ObjectT, ReplyFailure

_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
"""No JSON string may hold these, but some grammars let them pass. Outside of strings a line break
is a blank in JSON anyway."""
_MOST_PROBLEMS = 3


def parse_reply(
    text: str, schema: type[ObjectT], *, is_cut: bool = False
) -> ObjectT | ReplyFailure:
    """The object in `text`, or why there is none.

    Text around a JSON object, fences, missing quotes and brackets are mended. A text that was cut
    off is not: its last words would be missing, and nobody would see it.
    """
    text = _CONTROL.sub(" ", _THOUGHTS.sub("", text)).strip()
    if not text:
        return ReplyFailure("empty_reply", "the reply has no text")
    with suppress(ValidationError):
        return schema.model_validate_json(text)
    if is_cut:
        message = "the reply reached its largest length before its end; raise sampling.max_tokens"
        return ReplyFailure("cut_off", message)
    return _repaired(text, schema)


def _repaired(text: str, schema: type[ObjectT]) -> ObjectT | ReplyFailure:
    values = _mended(text)
    if not isinstance(values, dict):
        return ReplyFailure("invalid_json", "no JSON object is in the reply")
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        return ReplyFailure("invalid_object", _described(error))


def _mended(text: str) -> Any:
    """What the library reads; of several values the first object."""
    try:
        values = json_repair.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(values, list):
        return next((value for value in values if isinstance(value, dict)), None)
    return values


def _described(error: ValidationError) -> str:
    """What is wrong with an object, without what stands there: that is in the raw reply."""
    problems = error.errors(include_input=False, include_url=False)
    lines = [
        f"{'.'.join(map(str, problem['loc'])) or 'the object'}: {problem['msg']}"
        for problem in problems[:_MOST_PROBLEMS]
    ]
    more = len(problems) - len(lines)
    return "; ".join(lines) + (f"; and {more} more" if more else "")
