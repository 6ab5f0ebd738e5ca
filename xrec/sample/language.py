"""Texts in the town's language about people and places that are not in the town.

A small language model is trained on them. In them the user's profile states the taste, so the model
learns that an explanation names the aspect of the item that the user likes best. If the item has
none of the stated ones, the explanation names the first aspect of its profile, so the model also
learns to name nothing that the item lacks. In the town no profile states a taste: there only the
collaborative vector can stand in for that sentence.
"""

from dataclasses import dataclass
from random import Random

from xrec.sample import texts


@dataclass(frozen=True)
class LanguageExample:
    """One record. The user's profile begins with the sentence that states the taste."""

    user_profile: str
    item_title: str
    item_profile: str
    explanation: str


def generate_language_examples(num_examples: int, seed: int) -> list[LanguageExample]:
    """`num_examples` records of random users and places, drawn independently of any town."""
    rng = Random(f"language {seed}")
    return [_example(rng) for _ in range(num_examples)]


def _example(rng: Random) -> LanguageExample:
    favourites = rng.sample(texts.ASPECTS, k=rng.randint(1, texts.MAX_STATED_ASPECTS))
    aspects = rng.sample(texts.ASPECTS, k=texts.ASPECTS_PER_ITEM)
    profile = texts.item_profile(aspects, rng)
    first_named = min(aspects, key=profile.lower().index)
    best = next((aspect for aspect in favourites if aspect in aspects), first_named)
    title = texts.item_title(rng.randrange(texts.NUM_PLAIN_TITLES))
    return LanguageExample(
        user_profile=f"{texts.taste_sentence(favourites, rng)} {texts.user_profile(rng)}",
        item_title=title,
        item_profile=profile,
        explanation=texts.explanation(title, best, rng),
    )
