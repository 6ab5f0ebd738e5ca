"""The JSON schema that a reply must follow, and the object that a reply contains."""

import re
from contextlib import suppress
from typing import Any

import json_repair
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from xrec.errors import Failure
from xrec.text.messages import ObjectT

_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
# JSON strings cannot contain these characters, but some grammars allow them. Outside strings, a
# line break is just whitespace in JSON.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MAX_PROBLEMS = 3


class _StrictSchema(GenerateJsonSchema):
    """A schema in OpenAI's strict mode: exactly the given fields, no titles."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        strict = super().model_schema(schema)
        strict.pop("title", None)
        return {**strict, "additionalProperties": False}


class _UnboundedSchema(_StrictSchema):
    def str_schema(self, schema: Any) -> JsonSchemaValue:
        return {"type": "string"}


def strict_schema(model: type[BaseModel], *, with_lengths: bool = False) -> dict[str, Any]:
    """Return the schema of `model`, whose fields have no defaults, for OpenAI's strict mode.

    with_lengths: whether to include string lengths, which OpenAI rejects; `parse_reply` always
        checks them.
    """
    generator = _StrictSchema if with_lengths else _UnboundedSchema
    return model.model_json_schema(schema_generator=generator)


def without_thoughts(text: str) -> str:
    """Return a reply without surrounding whitespace and what a model thought before it."""
    return _THOUGHTS.sub("", text).strip()


def parse_reply(text: str, schema: type[ObjectT], *, is_cut: bool = False) -> ObjectT | Failure:
    """Return the object in `text`, or why there is none.

    Removes fences and text around the object, and adds missing quotes and brackets. A text that was
    cut off is not repaired: nobody would notice that its last words are missing.
    """
    text = _CONTROL.sub(" ", without_thoughts(text)).strip()
    if not text:
        return Failure("empty_reply", "the reply has no text")
    with suppress(ValidationError):
        return schema.model_validate_json(text)
    if is_cut:
        return Failure("cut_off", "the reply reached its maximum length; raise max_tokens")
    values: Any = None
    with suppress(ValueError, RecursionError):
        values = json_repair.loads(text)
    if isinstance(values, list):
        values = next((value for value in values if isinstance(value, dict)), None)
    if not isinstance(values, dict):
        return Failure("invalid_json", "the reply contains no JSON object")
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        return Failure("invalid_object", _describe(error))


def _describe(error: ValidationError) -> str:
    """List the first problems, without the values, which are in the raw reply."""
    problems = error.errors(include_input=False, include_url=False)
    lines = [
        f"{'.'.join(map(str, problem['loc'])) or 'the object'}: {problem['msg']}"
        for problem in problems
    ]
    return "; ".join(lines[:_MAX_PROBLEMS])
