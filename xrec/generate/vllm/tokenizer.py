"""The base model's tokenizer, for vLLM, which otherwise refuses ids that its tokenizer lacks.

vLLM needs a tokenizer to compile grammars. Up to version 0.32 it compares a prompt's largest id
with `max_token_id`. Users and items are ids above the vocabulary, so here that is the largest id
that vLLM's tensors hold. The engine checks ranges itself (xrec.generate.vllm.engine).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm.tokenizers.hf import CachedHfTokenizer

_LARGEST_INT32 = 2**31 - 1


class CollaborativeTokenizer(CachedHfTokenizer):
    """What vLLM loads for `tokenizer_mode` xrec."""

    @classmethod
    def from_pretrained(cls, path_or_repo_id: str | Path, *args: Any, **kwargs: Any) -> Any:
        """The tokenizer in the folder, with another `max_token_id`."""
        return _with_all_ids(CachedHfTokenizer.from_pretrained(path_or_repo_id, *args, **kwargs))


def _with_all_ids(tokenizer: Any) -> Any:
    """`tokenizer`, changed in place; copies of it and pickles have all ids too."""
    base: Any = type(tokenizer)

    def reduce(self: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        function, arguments, *_ = base.__reduce__(self)
        return _rebuilt, (function, arguments)

    tokenizer.__class__ = type(
        base.__name__, (base,), {"max_token_id": _LARGEST_INT32, "__reduce__": reduce}
    )
    return tokenizer


def _rebuilt(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return _with_all_ids(function(*arguments))
