"""The sample: a small generated town with planted tastes, so the right explanations are known.

A user's taste in aspects is latent and only shows in the visits. An item's profile names its
aspects, the user's profile does not reveal the taste, and the explanation names the aspect of the
item that the user likes most.
"""

from xrec.sample.texts import ASPECTS, LanguageExample, generate_language_examples
from xrec.sample.town import Town, generate_town, town_tables

__all__ = [
    "ASPECTS",
    "LanguageExample",
    "Town",
    "generate_language_examples",
    "generate_town",
    "town_tables",
]
