"""A language model in this process: one of our engines, with a grammar that enforces the schema."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from xrec.config import (
    Device,
    EngineModelConfig,
    ReplyFailureReason,
    SamplingConfig,
    StorageConfig,
)
from xrec.errors import Failure, ModelError, install_command
from xrec.generate.builtin.engine import load_engine
from xrec.generate.engine import Completion, TextParams, TokenMask
from xrec.generate.shared_engine import SharedEngine
from xrec.llm.chat import Chat
from xrec.llm.model import load_llm, load_tokenizer, resolve_device, stop_token_ids
from xrec.llm.source import resolve_model
from xrec.text.messages import Prompt, Reply, Usage

_REASONS: Mapping[str, ReplyFailureReason] = {
    "prompt_too_long": "prompt_too_long",
    "over_memory_budget": "prompt_too_long",
    "timeout": "timeout",
}


class SchemaGrammars:
    """A compiler of grammars for one tokenizer, which compiles each schema once.

    num_tokens: the size of the model's output, which may exceed the tokenizer's vocabulary.
    stop_token_ids: the tokens that may end a text.

    Raises ModelError if xgrammar is not installed or does not support the tokenizer.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, num_tokens: int, stop_token_ids: list[int]
    ):
        try:
            import xgrammar

            info = xgrammar.TokenizerInfo.from_huggingface(
                tokenizer, vocab_size=num_tokens, stop_token_ids=stop_token_ids
            )
        except ImportError as error:
            raise ModelError(
                f"cannot import xgrammar, which enforces the schema of replies ({error}); "
                f"run: {install_command('schema')}",
                code="xgrammar_not_installed",
            ) from error
        except ValueError as error:
            raise ModelError(
                f"xgrammar does not support this model's tokenizer: {error}",
                code="unsupported_tokenizer",
            ) from error
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1)
        self._start = xgrammar.GrammarMatcher

    def of(self, schema: type[BaseModel]) -> Callable[[], TokenMask]:
        """Return a factory of masks that restrict a text to an object of `schema`, on one line."""
        source = json.dumps(schema.model_json_schema())
        compiled = self._compiler.compile_json_schema(source, any_whitespace=False)
        return lambda: _SchemaMask(self._start(compiled))


class _SchemaMask:
    """A `TokenMask` that holds the grammar's state for one text."""

    def __init__(self, matcher: Any):
        self._matcher = matcher

    def fill(self, bitmask: Tensor) -> bool:
        return bool(self._matcher.fill_next_token_bitmask(bitmask[None]))

    def accept(self, token_id: int) -> None:
        is_accepted = self._matcher.accept_token(token_id)
        assert is_accepted, f"token {token_id} is not in the mask"


class EngineModel:
    """A `LanguageModel` over an engine without adapters.

    grammars: compiled for the engine's model. They mask each next token, so every text that ends
        before the maximum length is an object of the schema.
    """

    def __init__(self, engine: SharedEngine, chat: Chat, grammars: SchemaGrammars):
        self._engine, self._chat, self._grammars = engine, chat, grammars

    def write(
        self, prompts: Iterable[Prompt[Any]], sampling: SamplingConfig
    ) -> Iterator[Reply[Any]]:
        """See LanguageModel; calls from several threads share the engine's batches."""
        waiting = enumerate(prompts)
        while batch := list(islice(waiting, self._engine.core.max_rows)):
            requests = [self._request(prompt, sampling) for _, prompt in batch]
            for done in self._engine.complete(requests):
                yield self._reply(done, batch[done.index][0], len(requests[done.index][0]))

    def _request(
        self, prompt: Prompt[Any], sampling: SamplingConfig
    ) -> tuple[Sequence[int], TextParams]:
        params = TextParams(
            max_new_tokens=sampling.max_tokens,
            temperature=sampling.temperature or 0.0,
            top_p=1.0,
            seed=prompt.seed,
            constraint=self._grammars.of(prompt.schema),
        )
        return self._chat.token_ids(prompt.messages), params

    def _reply(self, completion: Completion, index: int, num_prompt_tokens: int) -> Reply[Any]:
        if completion.failure is not None:
            reason = _REASONS.get(completion.failure.reason, "bad_request")
            failure = Failure(reason, completion.failure.message)
            return Reply(index, "", Usage(num_requests=1), failure=failure)
        text = self._chat.decode(completion.token_ids)
        usage = Usage(num_prompt_tokens, len(completion.token_ids), 1)
        return Reply(index, text, usage, is_cut=completion.finish_reason == "length")


def load_engine_model(
    config: EngineModelConfig, storage: StorageConfig, device: Device, num_threads: int
) -> EngineModel:
    """Load the language model of `config` into this process, with its engine.

    Raises ModelError if the model is not available, or xgrammar does not support its tokenizer.
    """
    torch.set_num_threads(num_threads)
    folder = resolve_model(config.llm, storage)
    model, tokenizer = load_llm(config.llm, folder, resolve_device(device)), load_tokenizer(folder)
    stops = stop_token_ids(model, tokenizer)
    engine = load_engine(model, stops, config.engine)
    return EngineModel(
        engine, Chat(tokenizer), SchemaGrammars(tokenizer, model.config.vocab_size, stops)
    )
