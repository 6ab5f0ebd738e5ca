"""Conversations as token IDs: a chat template, and texts tokenized without special tokens.

Only the template can produce special tokens, so no text can end its message and start another.
`PromptBuilder` and the engines of `xrec.text` use this.
"""

import copy
import re
import sys
from array import array
from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from xrec.storage import ByteCache

_MAX_KEPT_BYTES = 64 * 2**20
_ENTRY_BYTES = 200  # overhead of the cache per text
# Replaces a message's content while the template is rendered, in private-use characters.
_MARK = "\ue000{}\ue001"
_MARKS = re.compile("\ue000(\\d+)\ue001")


class Chat:
    """Turns messages into token IDs for the model of `tokenizer`; threads may share it.

    Without a chat template, messages are separated by blank lines and followed by `cue`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, cue: str = "\n\n"):
        self._tokenizer, self._cue = tokenizer, cue
        self.encode = TextEncoder(tokenizer).encode

    def token_ids(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """Return the IDs of messages (role, content), up to the start of the model's reply."""
        ids: list[int] = []
        for number, piece in enumerate(self.pieces([role for role, _ in messages])):
            is_content = number % 2 == 1
            ids += self.encode(messages[int(piece)][1]) if is_content else self.scaffold_ids(piece)
        return ids

    def pieces(self, roles: Sequence[str]) -> list[str]:
        """Return the template's text before, between, and after messages with these roles.

        Every second piece is the number of the message in its place.
        """
        messages = [(role, _MARK.format(number)) for number, role in enumerate(roles)]
        if not self._tokenizer.chat_template:
            contents = "\n\n".join(content for _, content in messages)
            return _MARKS.split(f"{self._tokenizer.bos_token or ''}{contents}{self._cue}")
        try:
            return _MARKS.split(self._render(messages))
        except TemplateError:  # some models do not support system messages
            return _MARKS.split(self._render(_merge_system(messages)))

    def scaffold_ids(self, text: str) -> list[int]:
        """Return the IDs of a piece of the template, with its special tokens."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of generated IDs, without special tokens."""
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=True))

    def _render(self, messages: Sequence[tuple[str, str]]) -> str:
        """Render the template, with thinking turned off for models such as Qwen3."""
        return str(
            self._tokenizer.apply_chat_template(
                [{"role": role, "content": content} for role, content in messages],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
        )


def _merge_system(messages: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the messages with the system message at the start of the first other one."""
    system = [content for role, content in messages if role == "system"]
    first, *others = [message for message in messages if message[0] != "system"]
    return [("user", "\n\n".join([*system, first[1]])), *others]


class TextEncoder:
    """Tokenizes each text separately, without special tokens; threads may share it.

    No text can become a special token or another added token such as `<think>`. max_kept_bytes is
    the memory for the most recently used texts and their IDs.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_kept_bytes: int = _MAX_KEPT_BYTES):
        # transformers turns special tokens off for a whole tokenizer. This copy is only for texts,
        # so no thread that tokenizes a template can turn them on again.
        self._tokenizer = copy.deepcopy(tokenizer)
        self._cut = _inside_added_tokens(tokenizer)
        self._kept: ByteCache[str, array[int]] = ByteCache(max_kept_bytes)

    def encode(self, text: str) -> list[int]:
        """Return the IDs of a text; the caller may change the list."""
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
    """Return where to cut texts so that no added token (`<think>`) remains whole.

    The tokenizer's `split_special_tokens` only handles special added tokens; None if all are.
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
