"""Texts of a dataset as token ids, none of which is special."""

import copy
import re
import sys
from array import array

from transformers import PreTrainedTokenizerBase

from xrec.storage.cache import ByteCache

_MAX_KEPT_BYTES = 64 * 2**20
_ENTRY_BYTES = 200  # of the cache itself, for each text


class TextEncoder:
    """Tokenizes texts on their own, with special tokens off; threads may share it.

    No text can become a special token, nor another added token such as `<think>`.

    max_kept_bytes: memory for the texts used last and their ids, which are not computed again.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_kept_bytes: int = _MAX_KEPT_BYTES):
        # transformers keeps "special tokens off" as a setting of the tokenizer, for all its users.
        # A copy has one user, so no thread that tokenizes a template can turn them on for texts.
        self._tokenizer = copy.deepcopy(tokenizer)
        self._cut = _inside_added_tokens(tokenizer)
        self._kept: ByteCache[str, array[int]] = ByteCache(max_kept_bytes)

    def encode(self, text: str) -> list[int]:
        """The ids of a text; the list is the caller's own."""
        ids = self._kept.get(text)
        if ids is None:
            ids = array("i", self._encode(text))
            self._kept.put(text, ids, sys.getsizeof(text) + sys.getsizeof(ids) + _ENTRY_BYTES)
        return ids.tolist()

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
