"""Grammars of JSON schemas, by which an engine masks the next token (xgrammar)."""

import json
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from xrec.errors import ModelError
from xrec.generate.engine import TokenMask


class SchemaGrammars:
    """Compiles the grammar of each schema once, for one tokenizer.

    num_tokens: rows of the model's output, of which there may be more than the tokenizer knows.
    stop_token_ids: the tokens that may end a text.

    Raises ModelError if xgrammar is not installed, or cannot use the tokenizer.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, num_tokens: int, stop_token_ids: list[int]
    ):
        try:
            import xgrammar
        except ImportError as error:
            raise ModelError(
                f"replies by a schema need xgrammar, which cannot be imported ({error}); "
                "run: pip install 'xrec[schema]'"
            ) from error
        try:
            info = xgrammar.TokenizerInfo.from_huggingface(
                tokenizer, vocab_size=num_tokens, stop_token_ids=stop_token_ids
            )
        except ValueError as error:
            raise ModelError(f"xgrammar cannot use this model's tokenizer: {error}") from error
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1)
        self._start = xgrammar.GrammarMatcher

    def of(self, schema: type[BaseModel]) -> Callable[[], TokenMask]:
        """Makes the mask of a text that is an object of `schema`, written in one line."""
        source = json.dumps(schema.model_json_schema())
        compiled = self._compiler.compile_json_schema(source, any_whitespace=False)
        return lambda: _SchemaMask(self._start(compiled))


class _SchemaMask:
    """The state of one text, as a `TokenMask`."""

    def __init__(self, matcher: Any):
        self._matcher = matcher

    def fill(self, bitmask: Tensor) -> bool:
        return bool(self._matcher.fill_next_token_bitmask(bitmask[None]))

    def accept(self, token_id: int) -> None:
        is_accepted = self._matcher.accept_token(token_id)
        assert is_accepted, f"token {token_id} is not in the mask that was filled"
