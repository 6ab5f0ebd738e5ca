"""What an endpoint's answer means: a reply, the prompt's failure, or the end of the job.

Servers and routers leave fields out, send null, or send the message in parts. A message of ours
never holds the key: some endpoints repeat it in their answers.
"""

import json
from collections.abc import Mapping

import openai
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from pydantic import SecretStr

from xrec.config import EndpointModelConfig, ReplyFailureReason
from xrec.errors import EndpointAccessError, EndpointError
from xrec.text.model import RawReply, ReplyFailure, Usage, about_tokens

_MOST_SHOWN = 300
_LEAST_SHOWN_KEY = 6
_TRIED_AGAIN = frozenset({408, 409, 429})
_USED_UP = frozenset({"insufficient_quota", "billing_hard_limit_reached"})

OUTAGES: frozenset[ReplyFailureReason] = frozenset(
    {"rate_limited", "endpoint_error", "timeout", "unreachable"}
)
"""Failures that are the endpoint's, not the prompt's: other prompts may have replies."""


def fault_of(
    error: openai.APIError | ValueError, config: EndpointModelConfig, key: SecretStr | None
) -> ReplyFailure | EndpointError:
    """What the error of the last request means; ValueError says that no JSON came."""
    match error:
        case openai.APIStatusError():
            words = _without_key(_said(error), key)
            return _of_status(error.status_code, error.code or "", words, config)
        case openai.APITimeoutError():
            limit = config.timeout_seconds
            return ReplyFailure("timeout", f"no answer within {limit:g} s (timeout_seconds)")
        case openai.APIConnectionError():
            cause = _without_key(f"{error.__cause__ or error}", key)
            return ReplyFailure("unreachable", f"the connection failed: {cause}")
        case _:
            what = _without_key(f"{error}", key)
            return ReplyFailure("broken_response", f"the answer cannot be read: {what}")


def _said(error: openai.APIStatusError) -> str:
    """The status and the endpoint's words."""
    words = error.body
    if isinstance(words, Mapping):
        words = words.get("message") or words.get("detail") or words
    text = words if isinstance(words, str) else json.dumps(words, default=str)
    return f"{error.status_code} {text}"


def _of_status(
    status: int, code: str, words: str, config: EndpointModelConfig
) -> ReplyFailure | EndpointError:
    if status in (401, 402, 403) or code in _USED_UP:
        return _refusal(status, code, config)
    if status == 404 or code == "model_not_found":
        return EndpointError(
            f"{config.base_url}: no model {config.model!r} there, or no chat completions at this "
            f"URL ({words}); check model and base_url",
            code="no_such_model",
            key="model",
            saw=config.model,
        )
    if status in _TRIED_AGAIN or status >= 500:
        return ReplyFailure("rate_limited" if status == 429 else "endpoint_error", words)
    too_long = code == "context_length_exceeded" or status == 413
    return ReplyFailure("prompt_too_long" if too_long else "bad_request", words)


def _refusal(status: int, code: str, config: EndpointModelConfig) -> EndpointAccessError:
    """The error without the endpoint's words, of which the key, or a part, may be one."""
    url, variable = config.base_url, config.api_key_variable
    if status == 402 or code in _USED_UP:
        whose = f"the key in {variable}" if variable else "this endpoint"
        return EndpointAccessError(
            f"{url}: the quota or the balance of {whose} is used up ({code or status}); raise it "
            "there and run again, what is committed stays",
            code="quota_used_up",
            saw=code or status,
        )
    if variable is None:
        return EndpointAccessError(
            f"{url}: the endpoint asks for a key ({status}), and none was sent; name the "
            "environment variable that holds it in api_key_variable",
            code="key_missing",
            key="api_key_variable",
            saw=status,
        )
    return EndpointAccessError(
        f"{url}: the endpoint refuses the key in the environment variable {variable} ({status}); "
        f"check the key, and that it may use model {config.model!r}",
        code="key_refused",
        key=variable,
        saw=status,
    )


def _without_key(text: str, key: SecretStr | None) -> str:
    secret = key.get_secret_value() if key else ""
    if len(secret) >= _LEAST_SHOWN_KEY:
        text = text.replace(secret, "(key)")
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def read_answer(answer: object, index: int, words: str, num_requests: int) -> RawReply:
    """What the first choice says to a prompt of these words.

    Where the endpoint does not count tokens, they are estimated (`about_tokens`). Raises ValueError
    if `answer` is no chat completion.
    """
    choices = answer.choices if isinstance(answer, ChatCompletion) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if choice is None or not isinstance(message, ChatCompletionMessage):
        raise ValueError("expected a chat completion with a message in its first choice")
    text, usage = _text(message.content), getattr(answer, "usage", None)
    is_filtered = choice.finish_reason == "content_filter"
    refusal = message.refusal or ("by its content filter" if is_filtered else None)
    return RawReply(
        index,
        text,
        Usage(
            _count(getattr(usage, "prompt_tokens", None), words),
            _count(getattr(usage, "completion_tokens", None), text),
            num_requests,
        ),
        choice.finish_reason == "length",
        ReplyFailure("refused", str(refusal)) if refusal else None,
    )


def _text(content: object) -> str:
    """The text of a message; of one in parts those of text, without the model's thoughts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(str(part.get("text") or "") for part in parts)
    raise ValueError(f"expected text in the message, found {type(content).__name__}")


def _count(value: object, text: str) -> int:
    return value if isinstance(value, int) and value >= 0 else about_tokens(text)
