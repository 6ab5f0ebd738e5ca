"""Prompts as token ids.

A prompt is the instruction, everything of the user, everything of the item, the aspects that were
chosen for the pair, what follows all texts, and the model's turn. Texts of the dataset are
tokenized on their own, with special tokens off, so no text can become a special token or a
collaborative token. The pieces are concatenated as ids: two prompts of one user share their whole
beginning.
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
    """What may be said of a pair: the texts of its prompt, and the aspects of its item.

    aspects: those chosen for the pair, the best first, with their evidence; they are in the prompt
        if its template asks for them.
    menu: all aspects that the item's training reviews mention, without those that they blame. They
        are not in the prompt.
    people: what people did, if it is known; it is in the prompt if its template asks for it.
    """

    user_profile: str
    item_title: str
    item_profile: str
    aspects: tuple[AspectEvidence, ...] = ()
    menu: frozenset[str] = frozenset()
    people: PeopleEvidence | None = None

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
        if self.prompt.people and texts.people is not None:
            people = {"people": texts.people.sentence}
            last_ids += [*self._encode("\n"), *self._fill(self.prompt.people, people)]
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

    def _fill(self, part: str, values: Mapping[str, str | list[int]]) -> list[int]:
        """Ids of a template part: texts are tokenized, collaborative tokens are put in."""
        ids: list[int] = []
        for literal, name in parse_placeholders(part):
            ids += self._encode(literal)
            if name is not None:
                value = values[name]
                ids += value if isinstance(value, list) else self._encode(value)
        return ids
