"""The JSON schema of a reply, as endpoints and grammars take it."""

from typing import Any

from pydantic import BaseModel

_NOT_STRICT = ("default", "title", "minLength", "maxLength")
"""What OpenAI's strict schemas may not have, or nobody needs. Lengths are checked in the reply."""


def strict_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of `model` by the rules of OpenAI's strict mode.

    An object has all of its fields and no others.
    """
    strict: dict[str, Any] = _strict(model.model_json_schema())
    return strict


def _strict(node: Any) -> Any:
    if isinstance(node, list):
        return [_strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    fields = node.get("properties")
    inner = {
        name: {key: _strict(each) for key, each in value.items()}
        if name in ("properties", "$defs")
        else _strict(value)
        for name, value in node.items()
        if name not in _NOT_STRICT
    }
    if fields is None:
        return inner
    return {**inner, "required": list(fields), "additionalProperties": False}
