"""Prompts as token ids.

A prompt is the instruction, everything of the user, everything of the item, the aspects that were
chosen for the pair, what follows all texts, and the model's turn. Texts of the dataset are
tokenized on their own, with special tokens off, so no text can become a special token or a
collaborative token. The pieces are concatenated as ids: two prompts of one user share their whole
beginning.
"""

import copy
import itertools
import re
import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from xrec.config import PromptConfig, parse_placeholders
from xrec.data.evidence import AspectEvidence
from xrec.data.language import language_name
from xrec.errors import XRecError
from xrec.llm.collaborative import Vocabulary
from xrec.llm.title_placeholder import TitlePlaceholder
from xrec.storage import ByteCache

# Stands for the content while a chat template is rendered; the characters are of private use.
_CONTENT = "\ue000content\ue000"
_SHORTEST_BEGINNING = 3
_MAX_KEPT_BYTES = 64 * 2**20
_ENTRY_BYTES = 200  # of the cache of texts itself, for each text


class PromptTooLongError(XRecError):
    """The prompt of a pair has more tokens than `prompt.max_prompt_tokens`."""


@dataclass(frozen=True)
class PairTexts:
    """What may be said of a pair: the texts of its prompt, and the aspects of its item.

    aspects: those chosen for the pair, the best first, with their evidence; they are in the prompt
        if its template asks for them.
    menu: all aspects that the item's training reviews mention, without those that they blame. They
        are not in the prompt.
    """

    user_profile: str
    item_title: str
    item_profile: str
    aspects: tuple[AspectEvidence, ...] = ()
    menu: frozenset[str] = frozenset()

    @property
    def unquoted(self) -> "PairTexts":
        """The same without the words of reviewers."""
        return replace(self, aspects=tuple(replace(each, opinion="") for each in self.aspects))


class PromptBuilder:
    """Builds the token ids of prompts and of explanations for one model, template and catalogue."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt: PromptConfig, vocabulary: Vocabulary
    ):
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.vocabulary = vocabulary
        self.placeholder = TitlePlaceholder(prompt.title_placeholder, prompt.untitled)
        self._encode = TextEncoder(tokenizer).encode
        before, after = _scaffold(tokenizer)
        asked = prompt.instruction
        if prompt.language is not None:
            asked += f" Answer in {language_name(prompt.language)}."
        self._before = [*self._encode_scaffold(before), *self._encode(f"{asked}\n")]
        self._after = self._encode_scaffold(after)

    def build(self, user_index: int, item_index: int, texts: PairTexts) -> list[int]:
        """Token ids of the prompt of a pair.

        Raises PromptTooLongError, and ValueError for an index out of range.
        """
        ids = self._build(
            self.vocabulary.user_tokens(user_index), self.vocabulary.item_tokens(item_index), texts
        )
        if len(ids) > self.prompt.max_prompt_tokens:
            raise PromptTooLongError(
                f"prompt of {len(ids)} tokens, at most {self.prompt.max_prompt_tokens} allowed "
                "(prompt.max_prompt_tokens); shorten the profiles",
                code="prompt_too_long",
                key="prompt.max_prompt_tokens",
                saw=len(ids),
            )
        return ids

    def build_without_tokens(self, texts: PairTexts) -> list[int]:
        """The same prompt without collaborative tokens: what a text-only model sees."""
        return self._build([], [], texts)

    def encode_explanation(self, text: str) -> list[int]:
        """Token ids that the model is to write: the explanation and the end token."""
        return [*self._encode(text.strip()), self.tokenizer.eos_token_id]

    def decode(self, token_ids: list[int]) -> str:
        """The text of generated ids, without special tokens."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True)).strip()

    def first_tokens(self, word: str) -> frozenset[int]:
        """The tokens with which a word begins within a sentence, in small letters or not.

        A token of one or two letters, with which many others begin, is left out.
        """
        before = self._encode("the")
        forms = {word, word.lower(), word[:1].upper() + word[1:]}
        firsts = {each for form in forms for each in self._encode(f"the {form}")[len(before) :][:1]}
        least = min(len(word), _SHORTEST_BEGINNING)
        return frozenset(token for token in firsts if len(self.decode([token])) >= least)

    def show(self, prompt_ids: list[int]) -> str:
        """The prompt for people to read, with collaborative tokens as <user 3> and <item 7>."""
        runs = itertools.groupby(prompt_ids, self.vocabulary.show)
        return "".join(  # a letter may be several tokens
            name * len(tokens) if name else str(self.tokenizer.decode(tokens))
            for name, tokens in ((name, list(run)) for name, run in runs)
        )

    def _build(self, user: list[int], item: list[int], texts: PairTexts) -> list[int]:
        values: dict[str, str | list[int]] = {
            "user": user,
            "item": item,
            "user_profile": texts.user_profile,
            "item_title": texts.item_title or self.prompt.untitled,
            "item_profile": texts.item_profile,
        }
        user_ids, item_ids = (
            self._fill(self.prompt.user, values),
            self._fill(self.prompt.item, values),
        )
        last_ids = self._encode_aspects(texts)
        if self.prompt.collaborative:
            last_ids += [*self._encode("\n"), *self._fill(self.prompt.collaborative, values)]
        return [*self._before, *user_ids, *self._encode("\n"), *item_ids, *last_ids, *self._after]

    def _encode_aspects(self, texts: PairTexts) -> list[int]:
        """Ids of the list of chosen aspects, none if there is none."""
        if not (self.prompt.aspects and texts.aspects):
            return []
        prompt, entries = self.prompt, list[str]()
        for each in texts.aspects:
            opinion = prompt.opinion.format(**vars(each)) if each.opinion else ""
            entries.append(prompt.aspect.format(**{**vars(each), "aspect": each.aspect + opinion}))
        return [
            *self._encode("\n"),
            *self._fill(prompt.aspects_part, {"aspects": ", ".join(entries)}),
        ]

    def _fill(self, part: str, values: dict[str, str | list[int]]) -> list[int]:
        """Ids of a template part: texts are tokenized, collaborative tokens are put in."""
        ids: list[int] = []
        for literal, name in parse_placeholders(part):
            ids += self._encode(literal)
            if name is not None:
                value = values[name]
                ids += value if isinstance(value, list) else self._encode(value)
        return ids

    def _encode_scaffold(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def _scaffold(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The text before and after the user's message.

    Without a chat template these are the start token and a cue to answer.
    """
    if not tokenizer.chat_template:
        return tokenizer.bos_token or "", "\nExplanation:"
    before, after = render_chat(tokenizer, [("user", _CONTENT)]).split(_CONTENT)
    return before, after


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Iterable[tuple[str, str]]) -> str:
    """Return the conversation in the model's chat template, up to where its reply begins.

    messages: each is a role and its content. A model that can think first, such as Qwen3, is told
    not to: xrec has no room for its thoughts, and shows none. Raises jinja2's TemplateError if the
    template refuses the messages; some know no system message.
    """
    return str(
        tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in messages],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
    )


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
