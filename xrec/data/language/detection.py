"""Detects the language of a text with py3langid (naive Bayes over byte n-grams, 139 languages).

Short texts, and close languages such as Danish and Norwegian, cannot be identified reliably. So a
detected language is only used if its probability is high.
"""

import functools
import re
from typing import Any

from xrec.data.language.english import word_set

_LEAST_LETTERS = 20
_MOST_CHARACTERS = 2000
_LEAST_PROBABILITY = 0.9
# Languages that are treated as another: Bokmål, Nynorsk, Cantonese, Wu, Nigerian Pidgin.
_SAME = {"nb": "no", "nn": "no", "yue": "zh", "wuu": "zh", "pcm": "en"}
_NO_LANGUAGE = "zxx"
_NAMES = dict(
    pair.split(":")
    for pair in word_set(
        "ar:Arabic bg:Bulgarian bn:Bengali ca:Catalan cs:Czech da:Danish de:German el:Greek "
        "en:English es:Spanish et:Estonian fa:Persian fi:Finnish fr:French he:Hebrew hi:Hindi "
        "hr:Croatian hu:Hungarian id:Indonesian it:Italian ja:Japanese ko:Korean lt:Lithuanian "
        "lv:Latvian nl:Dutch no:Norwegian pl:Polish pt:Portuguese ro:Romanian ru:Russian sk:Slovak "
        "sl:Slovenian sr:Serbian sv:Swedish th:Thai tr:Turkish uk:Ukrainian vi:Vietnamese "
        "zh:Chinese"
    )
)
_CODES = {name.casefold(): code for code, name in _NAMES.items()}


def language_of(text: str) -> str | None:
    """Return the ISO 639 code of a text's language; None if the text is short or unclear."""
    if sum(map(str.isalpha, text[:_MOST_CHARACTERS])) < _LEAST_LETTERS:
        return None
    code, probability = _classified(text)
    return None if probability < _LEAST_PROBABILITY or code == _NO_LANGUAGE else code


def likeliest_language(text: str) -> str:
    """Return the ISO 639 code of a text's most likely language, however uncertain."""
    return _classified(text)[0]


def language_name(language: str) -> str:
    """Return the English name for an ISO 639-1 code; return anything else unchanged."""
    return _NAMES.get(language.casefold(), language)


def language_code(language: str) -> str | None:
    """Return the code of a language such as "de" or "informal German"; None if unknown."""
    words = re.findall(r"\w+", language_name(language).casefold())
    return next((_CODES[word] for word in words if word in _CODES), None)


def other_language(text: str, language: str) -> str | None:
    """Return the language of `text`, by name, if it is clearly not `language`; otherwise None.

    Always return None if `language` is unknown.
    """
    found, wanted = language_of(text), language_code(language)
    return None if wanted is None or found in (None, wanted) else language_name(str(found))


def _classified(text: str) -> tuple[str, float]:
    code, probability = _identifier().classify(text[:_MOST_CHARACTERS])
    return _SAME.get(code, code), probability


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # reads 4 MB

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
