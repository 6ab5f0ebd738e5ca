"""The sample: a small town with planted taste, in which one knows what a text should say.

A user's taste over aspects is latent and shows in the visits only. An item's profile names its
aspects, the user's profile tells nothing of the taste, and the explanation names that aspect of the
item which the user likes most.
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
