"""The annotator without a language model: what a parser and counting can say.

A text is parsed into mentions: nouns, each with the words that judge it (grammar, mentions). Each
text is read once, and what it mentions is stored (reader). The training reviews teach which nouns
are aspects, and what items are called (lexicon). The texts name what is praised most (annotator,
sentences). The aspects of profiles that the user supplies are found in profiles.
"""

from xrec.annotate.phrases.annotator import phrases_spec
from xrec.annotate.phrases.profiles import find_aspects
from xrec.annotate.phrases.reader import Reader

__all__ = ["Reader", "find_aspects", "phrases_spec"]
