"""What is made of a generated text before it is an explanation: cut at a stop string, whole sentences up to a number of words, or refused.

These rules know no engine. They only ever drop the end of a text, at a sentence.
"""

import re
from collections import Counter
from collections.abc import Sequence

from xrec.config.llm import DecodingConfig, TextConfig
from xrec.generate.engine import Completion, Failure

_SENTENCE_END = re.compile(r"[.!?\u2026]+[\"'\u201d\u2019)\]]*(?=\s|$)")
_PHRASE_WORDS = 3


def finished_text(
    text: str, completion: Completion, prompt: Sequence[int], decoding: DecodingConfig
) -> tuple[str, Failure | None]:
    """The explanation that `text`, the decoded ids of `completion`, gives; or the text as it is, and why it cannot be used."""
    text = _before_stop(text, decoding.stop)
    failure = _refused(text, completion.token_ids, prompt, decoding.text)
    max_words = decoding.text.max_words
    if failure is not None or max_words is None:
        return text, failure
    num_words = len(text.split())
    if num_words <= max_words and completion.finish_reason != "length":
        return text, None
    sentences = _whole_sentences(text, max_words)
    if sentences:
        return sentences, None
    limit = (
        f"text.max_words={max_words}"
        if num_words > max_words
        else f"max_new_tokens={decoding.max_new_tokens}"
    )
    return text, Failure("no_full_sentence", f"no sentence of it ends within decoding.{limit}")


def _refused(
    text: str, token_ids: Sequence[int], prompt: Sequence[int], rules: TextConfig
) -> Failure | None:
    if not text:
        return Failure("empty_text", "the model ended without a word")
    phrase, count = _most_repeated(text)
    if rules.max_phrase_repeats is not None and count > rules.max_phrase_repeats:
        return Failure(
            "repetitive_text",
            f"{phrase!r} stands {count} times in it, decoding.text.max_phrase_repeats is {rules.max_phrase_repeats}",
        )
    if rules.max_echo_tokens is not None and not _runs(
        token_ids, rules.max_echo_tokens + 1
    ).isdisjoint(_runs(prompt, rules.max_echo_tokens + 1)):
        return Failure(
            "prompt_echo",
            f"more than decoding.text.max_echo_tokens={rules.max_echo_tokens} tokens in a row are the prompt's",
        )
    return None


def _before_stop(text: str, stop: Sequence[str]) -> str:
    places = [place for string in stop if (place := text.find(string)) >= 0]
    return text[: min(places)].strip() if places else text.strip()


def _whole_sentences(text: str, max_words: int) -> str:
    """The beginning of `text` that ends with the last sentence within `max_words` words; empty if the first one does not."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return next((text[:end] for end in reversed(ends) if len(text[:end].split()) <= max_words), "")


def cut_to_words(text: str, max_words: int) -> str:
    """`text`, which is an explanation already, in at most `max_words` words: as it is, or up to its last whole sentence; empty if none ends there."""
    return text if len(text.split()) <= max_words else _whole_sentences(text, max_words)


def _most_repeated(text: str) -> tuple[str, int]:
    """The phrase of three words that stands most often in `text`, and how often."""
    words = text.lower().split()
    phrases = Counter(zip(*(words[start:] for start in range(_PHRASE_WORDS)), strict=False))
    phrase, count = max(phrases.items(), key=lambda item: item[1], default=((), 0))
    return " ".join(phrase), count


def _runs(ids: Sequence[int], length: int) -> set[tuple[int, ...]]:
    return {tuple(ids[start : start + length]) for start in range(len(ids) - length + 1)}
