"""Prompts as token IDs.

A prompt has the instruction, the user's part, the item's part, the pair's chosen aspects, the part
after all texts, and the start of the model's turn. Texts of the dataset are tokenized separately
without special tokens, so no text can become a special or collaborative token. The pieces are
concatenated as IDs, so two prompts of one user have a common prefix.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from xrec.config import PromptConfig, parse_placeholders
from xrec.data import AspectEvidence, PeopleEvidence
from xrec.data.language import language_name
from xrec.errors import XRecError
from xrec.llm.chat import Chat
from xrec.llm.collaborative import Vocabulary
from xrec.llm.title_placeholder import TitlePlaceholder

_SHORTEST_BEGINNING = 3


class PromptTooLongError(XRecError):
    """The prompt of a pair has more tokens than `prompt.max_prompt_tokens`."""


@dataclass(frozen=True)
class PairTexts:
    """What may be said about a pair: the texts of its prompt, and the aspects of its item.

    aspects: those chosen for the pair, best first, with evidence. The template may use them.
    menu: all aspects that the item's training reviews mention without blame. Not in the prompt.
    complaints: aspects that more of the user's reviews blame than praise. Not in the prompt.
    people: what people did, if known. The template may use it.
    user_id: whom the texts are about, for what keeps replies. Not in the prompt.
    """

    user_profile: str
    item_title: str
    item_profile: str
    aspects: tuple[AspectEvidence, ...] = ()
    menu: frozenset[str] = frozenset()
    complaints: frozenset[str] = frozenset()
    people: PeopleEvidence | None = None
    user_id: str = ""

    @property
    def unquoted(self) -> "PairTexts":
        """A copy without reviewers' words."""
        return replace(self, aspects=tuple(replace(each, opinion="") for each in self.aspects))


class PromptBuilder:
    """Builds the token IDs of prompts and explanations for one model, template, and catalog."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt: PromptConfig, vocabulary: Vocabulary
    ):
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.vocabulary = vocabulary
        self.placeholder = TitlePlaceholder(prompt.untitled)
        chat = Chat(tokenizer, cue="\nExplanation:")
        self._encode = chat.encode
        before, _, after = chat.pieces(["user"])
        asked = prompt.instruction
        if prompt.language is not None:
            asked += f" Answer in {language_name(prompt.language)}."
        self._before = [*chat.scaffold_ids(before), *self._encode(f"{asked}\n")]
        self._after = chat.scaffold_ids(after)

    def build(self, user_index: int, item_index: int, texts: PairTexts) -> list[int]:
        """Return the token IDs of a pair's prompt.

        Raises PromptTooLongError, and ValueError for an index out of range.
        """
        ids = self._build(
            self.vocabulary.user_tokens(user_index), self.vocabulary.item_tokens(item_index), texts
        )
        if len(ids) > self.prompt.max_prompt_tokens:
            raise PromptTooLongError(
                f"the prompt has {len(ids)} tokens, more than prompt.max_prompt_tokens = "
                f"{self.prompt.max_prompt_tokens}; shorten the profiles, or raise the limit",
                code="prompt_too_long",
                key="prompt.max_prompt_tokens",
                saw=len(ids),
            )
        return ids

    def build_without_tokens(self, texts: PairTexts) -> list[int]:
        """Return the prompt without collaborative tokens, as a text-only model sees it."""
        return self._build([], [], texts)

    def encode_explanation(self, text: str) -> list[int]:
        """Return the token IDs that the model should write: the explanation and the end token."""
        return [*self._encode(text.strip()), self.tokenizer.eos_token_id]

    def decode(self, token_ids: list[int]) -> str:
        """Return the text of generated IDs, without special tokens."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True)).strip()

    def first_tokens(self, word: str) -> frozenset[int]:
        """Return the first tokens of a word within a sentence, lowercase and capitalized.

        Tokens of one or two letters, which begin many words, are left out.
        """
        before = self._encode("the")
        forms = {word, word.lower(), word[:1].upper() + word[1:]}
        firsts = {each for form in forms for each in self._encode(f"the {form}")[len(before) :][:1]}
        least = min(len(word), _SHORTEST_BEGINNING)
        return frozenset(token for token in firsts if len(self.decode([token])) >= least)

    def show(self, prompt_ids: list[int]) -> str:
        """Return the prompt as readable text, with collaborative tokens like <user 3>."""
        runs = itertools.groupby(prompt_ids, self.vocabulary.show)
        return "".join(  # a character may be several tokens
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
        if self.prompt.people and texts.people is not None:
            people = {"people": texts.people.sentence}
            last_ids += [*self._encode("\n"), *self._fill(self.prompt.people, people)]
        if self.prompt.collaborative:
            last_ids += [*self._encode("\n"), *self._fill(self.prompt.collaborative, values)]
        return [*self._before, *user_ids, *self._encode("\n"), *item_ids, *last_ids, *self._after]

    def _encode_aspects(self, texts: PairTexts) -> list[int]:
        """Return the IDs of the list of chosen aspects, if any."""
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

    def _fill(self, part: str, values: Mapping[str, str | list[int]]) -> list[int]:
        """Return the IDs of a template part with its texts and collaborative tokens."""
        ids: list[int] = []
        for literal, name in parse_placeholders(part):
            ids += self._encode(literal)
            if name is not None:
                value = values[name]
                ids += value if isinstance(value, list) else self._encode(value)
        return ids
