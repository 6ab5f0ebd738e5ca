"""The JSON schema of a reply, as endpoints and grammars take it."""

from typing import Any

from pydantic import BaseModel

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
