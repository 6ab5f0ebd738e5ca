"""Texts of a dataset as token ids, none of which is special."""

import re
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

_MOST_KEPT = 65_536


class TextEncoder:
    """Tokenizes texts on their own, with special tokens off; the latest 65,536 are kept.

    No text can become a special token, nor another added token such as `<think>`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        self._cut = _inside_added_tokens(tokenizer)
        self.encode = lru_cache(maxsize=_MOST_KEPT)(self._encode)

    def _encode(self, text: str) -> list[int]:
        pieces = self._cut.split(text) if self._cut else [text]
        return [
            token
            for piece in pieces
            if piece
            for token in self._tokenizer(
                piece, add_special_tokens=False, split_special_tokens=True
            )["input_ids"]
        ]


def _inside_added_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str] | None:
    """Where a text must be cut so that no added token's name (`<think>`) is found in it.

    The tokenizer's `split_special_tokens` handles only the special ones among the added tokens.
    None means that there are no others.
    """
    names = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if not token.special and len(token.content.strip()) > 1
    ]
    return (
        re.compile(
            "|".join(f"(?<={re.escape(name[0])})(?={re.escape(name[1:])})" for name in names)
        )
        if names
        else None
    )
