"""Interprets an endpoint's responses: a reply, a failed prompt, or an error that ends the job.

Some servers and routers omit fields, send null, or split the message into parts. Some repeat the
API key in their errors, so our messages hide it.
"""

import json
from collections.abc import Mapping
from typing import Any

import openai
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from pydantic import SecretStr

from xrec.config import EndpointModelConfig, ReplyFailureReason
from xrec.errors import EndpointAccessError, EndpointError
from xrec.text.messages import Reply, ReplyFailure, Usage, about_tokens

_MAX_SHOWN_CHARACTERS = 300
_MIN_KEY_CHARACTERS = 6
_TEMPORARY = frozenset({408, 409, 429})
_USED_UP = frozenset({"insufficient_quota", "billing_hard_limit_reached"})

OUTAGES: frozenset[ReplyFailureReason] = frozenset(
    {"rate_limited", "endpoint_error", "timeout", "unreachable"}
)
"""Failures that are caused by the endpoint, not by the prompt."""


def read_error(
    error: openai.APIError | ValueError, config: EndpointModelConfig, key: SecretStr | None
) -> ReplyFailure | EndpointError:
    """Return what the last attempt's error means; a ValueError is an unreadable response."""
    match error:
        case openai.APIStatusError():
            return _read_status(error, config, key)
        case openai.APITimeoutError():
            limit = config.timeout_seconds
            return ReplyFailure("timeout", f"no answer within {limit:g} s (timeout_seconds)")
        case openai.APIConnectionError():
            cause = _hide_key(f"{error.__cause__ or error}", key)
            return ReplyFailure("unreachable", f"the connection failed: {cause}")
    return ReplyFailure("broken_response", f"invalid response: {_hide_key(f'{error}', key)}")


def _read_status(
    error: openai.APIStatusError, config: EndpointModelConfig, key: SecretStr | None
) -> ReplyFailure | EndpointError:
    """Interpret a status; errors about the key omit the endpoint's text, which may contain it."""
    status, code = error.status_code, error.code or ""
    url, variable = config.base_url, config.api_key_variable
    if status == 402 or code in _USED_UP:
        return EndpointAccessError(
            f"{url}: the key's quota or balance is used up ({code or status}); raise it and "
            "rerun; committed texts are kept",
            code="quota_used_up",
            saw=code or status,
        )
    if status in (401, 403):
        text = (
            f"the endpoint requires a key ({status}); set api_key_variable to the name of the "
            "environment variable that holds it"
            if variable is None
            else f"the endpoint rejects the key in the environment variable {variable} ({status}); "
            f"check the key and its access to model {config.model!r}"
        )
        problem = "key_refused" if variable else "key_missing"
        return EndpointAccessError(
            f"{url}: {text}", code=problem, key=variable or "api_key_variable", saw=status
        )
    words = error.body
    if isinstance(words, Mapping):
        words = words.get("message") or words.get("detail") or words
    text = words if isinstance(words, str) else json.dumps(words, default=str)
    text = _hide_key(f"{status} {text}", key)
    if status == 404 or code == "model_not_found":
        return EndpointError(
            f"{url}: model {config.model!r} was not found, or this URL has no chat completions API "
            f"({text}); check model and base_url",
            code="no_such_model",
            key="model",
            saw=config.model,
        )
    if status in _TEMPORARY or status >= 500:
        return ReplyFailure("rate_limited" if status == 429 else "endpoint_error", text)
    is_too_long = code == "context_length_exceeded" or status == 413
    return ReplyFailure("prompt_too_long" if is_too_long else "bad_request", text)


def _hide_key(text: str, key: SecretStr | None) -> str:
    secret = key.get_secret_value() if key else ""
    if len(secret) >= _MIN_KEY_CHARACTERS:
        text = text.replace(secret, "(key)")
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[:_MAX_SHOWN_CHARACTERS]}..."


def read_answer(answer: object, index: int, words: str, num_requests: int) -> Reply[Any]:
    """Return the reply in the first choice of `answer`; `words` is the text of the prompt.

    Tokens are estimated (`about_tokens`) if the endpoint does not report them. Raises ValueError if
    `answer` is not a chat completion.
    """
    choices = answer.choices if isinstance(answer, ChatCompletion) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if choice is None or not isinstance(message, ChatCompletionMessage):
        raise ValueError("expected a chat completion with a message in its first choice")
    text, counted = _text(message.content), getattr(answer, "usage", None)
    num_prompt_tokens = _count(getattr(counted, "prompt_tokens", None), words)
    num_reply_tokens = _count(getattr(counted, "completion_tokens", None), text)
    is_filtered = choice.finish_reason == "content_filter"
    refusal = message.refusal or ("by its content filter" if is_filtered else None)
    failure = ReplyFailure("refused", str(refusal)) if refusal else None
    is_cut = choice.finish_reason == "length"
    usage = Usage(num_prompt_tokens, num_reply_tokens, num_requests)
    return Reply(index, text, usage, is_cut, failure)


def _count(value: object, text: str) -> int:
    return value if isinstance(value, int) and value >= 0 else about_tokens(text)


def _text(content: object) -> str:
    """Return the text of a message; if it is in parts, only text parts, without thoughts."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(str(part.get("text") or "") for part in parts)
    if content is None or isinstance(content, str):
        return content or ""
    raise ValueError(f"expected text in the message, got {type(content).__name__}")
