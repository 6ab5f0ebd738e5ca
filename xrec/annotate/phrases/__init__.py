"""The annotator without a language model: what reviews praise, by phrases, counts and lexicons.

grammar    the words of a text with the parts of speech that matter here
mentions   noun phrases of a text, each with the opinion on it
opinion    how good or bad a clause says that one is
attributes praise that names nothing, such as "easy to use"
lexicon    which noun phrases are aspects, from training reviews
titles     names for items that have none
sentences  profiles and explanations from aspects
annotator  all of it, behind the protocol of an annotator

profiles, profile_words, profile_aspects
           the same grammar for profiles of items that have no reviews
"""

from xrec.annotate.phrases.annotator import phrases_spec

__all__ = ["phrases_spec"]
