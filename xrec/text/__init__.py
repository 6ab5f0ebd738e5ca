"""A text-only language model: takes messages and a schema, returns an object of that schema.

    model = load_language_model(config, storage=storage, key=key)
    for reply in ask(model, [Prompt(messages, Profile)], config):
        reply.value      # a Profile, or None with reply.failure

A `LanguageModel` writes replies: one of our engines with a grammar, or an endpoint that speaks the
OpenAI API. `ask` parses and repairs them, and retries a prompt once if its reply is invalid. An
`Asker` also looks for a stored reply first (`ReplyStore`), and has a budget of tokens.
"""

from xrec.text.asker import (
    Asker,
    ask,
    endpoint_key,
    load_language_model,
    make_asker,
    model_identity,
)
from xrec.text.messages import (
    LanguageModel,
    Message,
    Prompt,
    Reply,
    Usage,
    about_tokens,
    parse_reply,
)
from xrec.text.prompt_file import PromptFile, parse_prompt_file, read_prompt_file

__all__ = [
    "Asker",
    "LanguageModel",
    "Message",
    "Prompt",
    "PromptFile",
    "Reply",
    "Usage",
    "about_tokens",
    "ask",
    "endpoint_key",
    "load_language_model",
    "make_asker",
    "model_identity",
    "parse_prompt_file",
    "parse_reply",
    "read_prompt_file",
]
