"""The annotator that uses a parser and counts instead of a language model.

Each text is parsed once into mentions: nouns, each with the words that judge it (grammar, mentions,
reader). The annotator learns from the training reviews which nouns are aspects, and what items are
called (lexicon), and writes texts that name what reviews praise most (annotator, sentences). The
module profiles finds aspects in profiles that the user supplies.
"""

from xrec.annotate.phrases.annotator import phrases_spec
from xrec.annotate.phrases.profiles import find_aspects
from xrec.annotate.phrases.reader import Reader

__all__ = ["Reader", "find_aspects", "phrases_spec"]
