"""What a request to an endpoint that failed for good means: fail the prompt, or end the job.

A message never holds the key: some endpoints repeat it in their answers.
"""

import json
from collections.abc import Mapping

import openai
from pydantic import SecretStr

from xrec.config.text import EndpointModelConfig, ReplyFailureReason
from xrec.errors import EndpointAccessError, EndpointError, EndpointModelError
from xrec.text.model import ReplyFailure

_MOST_SHOWN = 300
_LEAST_SHOWN_KEY = 6
_TRIED_AGAIN = frozenset({408, 409, 429})
_ASKED_AS_MUCH_AS_PAID_FOR = frozenset({"insufficient_quota", "billing_hard_limit_reached"})


OUTAGES: frozenset[ReplyFailureReason] = frozenset(
    {"rate_limited", "endpoint_error", "timeout", "unreachable"}
)
"""Why a prompt fails after all its requests, although it may be another one's turn to succeed."""


class Faults:
    """Judges failed requests to the endpoint of `config` with `key`."""

    def __init__(self, config: EndpointModelConfig, key: SecretStr | None):
        self._config, self._key = config, key

    def of(self, error: openai.APIError | ValueError) -> ReplyFailure | EndpointError:
        """What the error of the last request means; ValueError says that no JSON came."""
        match error:
            case openai.APIStatusError():
                return self._of_status(error)
            case openai.APITimeoutError():
                limit = self._config.timeout_seconds
                return ReplyFailure("timeout", f"no answer within {limit:g} s (timeout_seconds)")
            case openai.APIConnectionError():
                cause = self._without_key(f"{error.__cause__ or error}")
                return ReplyFailure("unreachable", f"the connection failed: {cause}")
            case _:
                what = self._without_key(f"{error}")
                return ReplyFailure("broken_response", f"the answer cannot be read: {what}")

    def _said(self, error: openai.APIStatusError) -> str:
        """The status and the endpoint's words, without the key."""
        words = error.body
        if isinstance(words, Mapping):
            words = words.get("message") or words.get("detail") or words
        text = words if isinstance(words, str) else json.dumps(words, default=str)
        return self._without_key(f"{error.status_code} {text}")

    def _of_status(self, error: openai.APIStatusError) -> ReplyFailure | EndpointError:
        status, code, config = error.status_code, error.code or "", self._config
        if status in (401, 402, 403) or code in _ASKED_AS_MUCH_AS_PAID_FOR:
            return self._refusal(status, code)
        if status == 404 or code == "model_not_found":
            return EndpointModelError(
                f"{config.base_url}: no model {config.model!r} there, or no chat completions at "
                f"this URL ({self._said(error)}); check model and base_url"
            )
        if status in _TRIED_AGAIN or status >= 500:
            reason: ReplyFailureReason = "rate_limited" if status == 429 else "endpoint_error"
            return ReplyFailure(reason, self._said(error))
        too_long = code == "context_length_exceeded" or status == 413
        return ReplyFailure("prompt_too_long" if too_long else "bad_request", self._said(error))

    def _refusal(self, status: int, code: str) -> EndpointAccessError:
        """The error without the endpoint's words, of which the key, or a part, may be one."""
        variable, url = self._config.api_key_variable, self._config.base_url
        if status == 402 or code in _ASKED_AS_MUCH_AS_PAID_FOR:
            whose = f"the key in {variable}" if variable else "this endpoint"
            why = code if code in _ASKED_AS_MUCH_AS_PAID_FOR else status
            return EndpointAccessError(
                f"{url}: the quota or the balance of {whose} is used up ({why}); raise it there "
                "and run again, what is committed stays"
            )
        if self._key is None:
            return EndpointAccessError(
                f"{url}: the endpoint asks for a key ({status}), and none was sent; name the "
                "environment variable that holds it in api_key_variable"
            )
        return EndpointAccessError(
            f"{url}: the endpoint refuses the key in the environment variable {variable} "
            f"({status}); check the key, and that it may use model {self._config.model!r}"
        )

    def _without_key(self, text: str) -> str:
        key = self._key.get_secret_value() if self._key else ""
        if len(key) >= _LEAST_SHOWN_KEY:
            text = text.replace(key, "(key)")
        return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
