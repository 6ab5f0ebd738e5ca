"""The JSON schema of a reply, as endpoints and grammars take it, and the object in a reply.

A library mends broken JSON.
"""

import re
from contextlib import suppress
from typing import Any

import json_repair
from pydantic import BaseModel, ValidationError

from xrec.text.model import ObjectT, ReplyFailure

_NOT_NEEDED = ("default", "title")
_LENGTHS = ("minLength", "maxLength")
"""What OpenAI's strict schemas may not have. Lengths are checked in the reply."""


def strict_schema(model: type[BaseModel], *, with_lengths: bool = False) -> dict[str, Any]:
    """The schema of `model` by the rules of OpenAI's strict mode.

    An object has all of its fields and no others.

    with_lengths: whether strings have their bounds, which OpenAI refuses.
    """
    left_out = _NOT_NEEDED if with_lengths else (*_NOT_NEEDED, *_LENGTHS)
    strict: dict[str, Any] = _strict(model.model_json_schema(), left_out)
    return strict


def _strict(node: Any, left_out: tuple[str, ...]) -> Any:
    if isinstance(node, list):
        return [_strict(each, left_out) for each in node]
    if not isinstance(node, dict):
        return node
    fields = node.get("properties")
    inner = {
        name: {key: _strict(each, left_out) for key, each in value.items()}
        if name in ("properties", "$defs")
        else _strict(value, left_out)
        for name, value in node.items()
        if name not in left_out
    }
    if fields is None:
        return inner
    return {**inner, "required": list(fields), "additionalProperties": False}


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
        message = "the reply reached its maximum length before its end; raise max_tokens"
        return ReplyFailure("cut_off", message)
    return _repaired(text, schema)


def _repaired(text: str, schema: type[ObjectT]) -> ObjectT | ReplyFailure:
    """The object that the library reads; of several values the first one."""
    values: Any = None
    with suppress(ValueError, RecursionError):
        values = json_repair.loads(text)
    if isinstance(values, list):
        values = next((value for value in values if isinstance(value, dict)), None)
    if not isinstance(values, dict):
        return ReplyFailure("invalid_json", "no JSON object is in the reply")
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        return ReplyFailure("invalid_object", _described(error))


def _described(error: ValidationError) -> str:
    """What is wrong with an object, without what stands there: that is in the raw reply."""
    problems = error.errors(include_input=False, include_url=False)
    lines = [
        f"{'.'.join(map(str, problem['loc'])) or 'the object'}: {problem['msg']}"
        for problem in problems[:_MOST_PROBLEMS]
    ]
    more = len(problems) - len(lines)
    return "; ".join(lines) + (f"; and {more} more" if more else "")
