"""A text-only language model: takes messages and a schema, returns an object of that schema.

    model = load_language_model(config, storage=storage, key=key)
    for reply in ask(model, [Prompt(messages, Profile)], config.sampling):
        reply.value      # a Profile, or None with reply.failure

A `LanguageModel` writes replies: `EngineModel` runs one of our engines with a grammar,
`EndpointModel` calls an endpoint that speaks the OpenAI API. `ask` parses and repairs replies, and
retries a prompt once if its reply is invalid. An `Asker` sends identical prompts only once, keeps
replies across restarts, and stops when its token budget is used up.
"""

from xrec.text.asker import Asker, ask
from xrec.text.loading import (
    endpoint_key,
    load_language_model,
    model_identity,
)
from xrec.text.messages import (
    LanguageModel,
    Message,
    Prompt,
    Reply,
    ReplyFailure,
    ScoreReply,
    Usage,
    about_tokens,
)
from xrec.text.prompt_file import PromptFile, parse_prompt_file, read_prompt_file
from xrec.text.replies import parse_reply
from xrec.text.reply_store import ReplyStore

__all__ = [
    "Asker",
    "LanguageModel",
    "Message",
    "Prompt",
    "PromptFile",
    "Reply",
    "ReplyFailure",
    "ReplyStore",
    "ScoreReply",
    "Usage",
    "about_tokens",
    "ask",
    "endpoint_key",
    "load_language_model",
    "model_identity",
    "parse_prompt_file",
    "parse_reply",
    "read_prompt_file",
]
