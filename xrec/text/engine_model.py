"""A language model in this process: an engine of ours, held to the schema by a grammar."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from xrec.config.llm import LLMConfig
from xrec.config.shared import Device, StorageConfig
from xrec.config.text import EngineModelConfig, ReplyFailureReason, SamplingConfig
from xrec.generate.builtin.engine import load_engine
from xrec.generate.engine import Completion, TextParams
from xrec.generate.shared_engine import SharedEngine
from xrec.llm.model import (
    load_model,
    load_tokenizer,
    resolve_attention,
    resolve_device,
    resolve_dtype,
    stop_token_ids,
)
from xrec.llm.source import public_name, resolve_model
from xrec.text.chat import Chat
from xrec.text.grammar import SchemaGrammars
from xrec.text.model import Prompt, RawReply, ReplyFailure, Usage

_REASONS: dict[str, ReplyFailureReason] = {
    "prompt_too_long": "prompt_too_long",
    "over_memory_budget": "prompt_too_long",
}


class EngineModel:
    """A `LanguageModel` over an engine without adapters.

    grammars: made for the engine's model; they mask each next token, so every text that ends before
        its largest length is an object of the schema.
    """

    def __init__(self, name: str, engine: SharedEngine, chat: Chat, grammars: SchemaGrammars):
        self.name = name
        self._engine, self._chat, self._grammars = engine, chat, grammars

    def write(self, prompts: Sequence[Prompt[Any]], sampling: SamplingConfig) -> Iterator[RawReply]:
        """See LanguageModel; calls from several threads are computed together."""
        ids = [self._chat.token_ids(prompt.messages) for prompt in prompts]
        requests = [
            (prompt_ids, self._params(prompt, sampling))
            for prompt_ids, prompt in zip(ids, prompts, strict=True)
        ]
        for completion in self._engine.complete(requests):
            yield self._reply(completion, len(ids[completion.index]))

    def num_tokens(self, text: str) -> int:
        """See LanguageModel."""
        return self._chat.num_tokens(text)

    def close(self) -> None:
        """See LanguageModel; the memory is freed with the object."""

    def _params(self, prompt: Prompt[Any], sampling: SamplingConfig) -> TextParams:
        return TextParams(
            max_new_tokens=sampling.max_tokens,
            temperature=sampling.temperature or 0.0,
            top_p=1.0,
            seed=sampling.seed,
            constraint=self._grammars.of(prompt.schema),
        )

    def _reply(self, completion: Completion, num_prompt_tokens: int) -> RawReply:
        if completion.failure is not None:
            reason = _REASONS.get(completion.failure.reason, "bad_request")
            failure = ReplyFailure(reason, completion.failure.message)
            return RawReply(completion.index, "", Usage(num_requests=1), failure=failure)
        return RawReply(
            completion.index,
            self._chat.decode(completion.token_ids),
            Usage(num_prompt_tokens, len(completion.token_ids), 1),
            completion.finish_reason == "length",
        )


def load_engine_model(
    config: EngineModelConfig,
    llm: LLMConfig,
    storage: StorageConfig,
    *,
    device: Device,
    num_threads: int,
) -> EngineModel:
    """Load `llm` into this process, with the engine of `config`.

    Raises ModelError if the model cannot be had, or its tokenizer knows no grammar.
    """
    torch.set_num_threads(num_threads)
    folder = resolve_model(llm.model, llm.cache_dir, storage)
    torch_device = resolve_device(device)
    model = load_model(
        folder,
        dtype=resolve_dtype(llm.dtype, torch_device),
        device=torch_device,
        attn_implementation=resolve_attention(llm.attn_implementation, torch_device),
    )
    tokenizer = load_tokenizer(folder)
    stops = stop_token_ids(model, tokenizer)
    chat = Chat(tokenizer)
    engine = load_engine(model, stops, config.engine)
    grammars = SchemaGrammars(tokenizer, model.config.vocab_size, stops)
    return EngineModel(public_name(llm.model), engine, chat, grammars)
