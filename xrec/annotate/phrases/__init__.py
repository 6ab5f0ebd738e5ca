"""The annotator without a language model: what a parser and counting can say.

A text is parsed into mentions: nouns, each with the opinion that its sentence has on it (mentions).
Which of the nouns are aspects, and what items are called, is learned from the training reviews
(lexicon). The texts name what is praised most (annotator, sentences). The aspects of profiles that
come as given are found in profiles.
"""

from xrec.annotate.phrases.annotator import phrases_spec

__all__ = ["phrases_spec"]
