"""A text-only language model: messages and a schema in, an object of the schema out.

    model = load_language_model(config, llm=None, storage=storage, key=key)
    for reply in ask(model, [Prompt(messages, Profile)], config.sampling):
        reply.value      # a Profile, or None and then reply.failure says why

A `LanguageModel` writes raw replies: `EngineModel` by an engine of ours that is held to the schema,
`EndpointModel` by asking an endpoint that speaks the OpenAI API.
`ask` makes objects of them: a reply that is no valid JSON is repaired, then asked for again once,
then it has failed, and the others go on. Errors that are no prompt's fault (a refused key, a model
that is not there) are raised and end the job. An `Asker` asks equal prompts once, keeps replies for
after a kill, and stays within a budget.
"""

from xrec.text.asker import Asker, Budget, ask
from xrec.text.model import (
    LanguageModel,
    Message,
    Prompt,
    RawReply,
    Reply,
    ReplyFailure,
    ScoreReply,
    Usage,
    about_tokens,
    endpoint_key,
    load_language_model,
)
from xrec.text.reply_store import ReplyStore

__all__ = [
    "Asker",
    "Budget",
    "LanguageModel",
    "Message",
    "Prompt",
    "RawReply",
    "Reply",
    "ReplyFailure",
    "ReplyStore",
    "ScoreReply",
    "Usage",
    "about_tokens",
    "ask",
    "endpoint_key",
    "load_language_model",
]
