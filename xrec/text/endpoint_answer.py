"""Reads what an endpoint answered with 200: the openai client does not check its form.

Servers and routers leave fields out, send null, or send the message in parts.
"""

from dataclasses import dataclass

from openai.types.chat import ChatCompletion, ChatCompletionMessage


@dataclass(frozen=True)
class EndpointAnswer:
    """The text of an answer, and what is said about it.

    is_cut: whether the text ended because it reached the largest length.
    refusal: why the model or the endpoint's filter does not want to answer, if it does not.
    num_prompt_tokens, num_reply_tokens: what the endpoint counted; None if it did not count.
    """

    text: str
    is_cut: bool
    refusal: str | None
    num_prompt_tokens: int | None
    num_reply_tokens: int | None


def read_answer(answer: object) -> EndpointAnswer:
    """What the first choice says; raises ValueError if `answer` is no chat completion."""
    choices = answer.choices if isinstance(answer, ChatCompletion) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(choice, "message", None)
    if choice is None or not isinstance(message, ChatCompletionMessage):
        raise ValueError("expected a chat completion with a message in its first choice")
    refusal = "by its content filter" if choice.finish_reason == "content_filter" else None
    usage = getattr(answer, "usage", None)
    return EndpointAnswer(
        _text(message.content),
        choice.finish_reason == "length",
        str(message.refusal) if message.refusal else refusal,
        _count(getattr(usage, "prompt_tokens", None)),
        _count(getattr(usage, "completion_tokens", None)),
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


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
