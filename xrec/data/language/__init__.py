"""What can be said about a text without a language model.

words and sentences   of any language (UAX 29)
languages             which language a text is in
English               lexicons: parts of speech, valences, singulars; the parser
titles                where a text names an item of the catalog
unwanted              personal data, orders to a language model, calls to buy or click
"""

from xrec.data.language.detection import (
    language_code,
    language_name,
    likeliest_language,
    other_language,
)
from xrec.data.language.english import (
    PRAISE_OF_ANYTHING,
    is_noun,
    may_be_doubled,
    singular,
    tags,
    valence,
    with_capitals,
    word_set,
)
from xrec.data.language.parser import load_parser, parse, parser_fingerprint
from xrec.data.language.sentences import sentence_ends, word_spans, words
from xrec.data.language.titles import Span, TitleIndex, composed, title_spans, without_spans
from xrec.data.language.unwanted import (
    REMOVED,
    gives_orders,
    remove_personal,
    solicits,
    without_solicitation,
)

__all__ = [
    "PRAISE_OF_ANYTHING",
    "REMOVED",
    "Span",
    "TitleIndex",
    "composed",
    "gives_orders",
    "is_noun",
    "language_code",
    "language_name",
    "likeliest_language",
    "load_parser",
    "may_be_doubled",
    "other_language",
    "parse",
    "parser_fingerprint",
    "remove_personal",
    "sentence_ends",
    "singular",
    "solicits",
    "tags",
    "title_spans",
    "valence",
    "with_capitals",
    "without_solicitation",
    "without_spans",
    "word_set",
    "word_spans",
    "words",
]
