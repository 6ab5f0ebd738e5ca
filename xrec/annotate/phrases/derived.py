"""The nouns that English makes of an adjective or a participle: what is durable has durability.

They are candidates by form alone. Those count that reviews of the same catalogue use as nouns.
"""

from typing import Any

# Qualities that it is good to have, whatever the lexicons know of the adjective.
_GOOD = (
    ("able", "ability"),
    ("ible", "ibility"),
    ("ile", "ility"),  # versatile
    ("rate", "racy"),  # accurate
    ("ive", "ivity"),  # responsive
)
_FURTHER = (
    ("rtable", "rt"),  # comfortable
    ("iful", "y"),  # beautiful
    ("ish", "e"),  # stylish
    ("y", "e"),  # a tasty dish, its taste
    ("rm", "rmth"),  # warm
)
_LEAST_LETTERS = 3


def nouns_of(adjective: Any, *, is_known: bool) -> tuple[str, ...]:
    """The nouns that an adjective, a token of spaCy, may be the quality of; "easy to use" too.

    is_known: whether it is known how good the adjective is. If it is not, only those of qualities
        that are good to have.
    """
    word = adjective.lower_
    infinitives = [each for each in adjective.children if each.dep_ in ("xcomp", "advcl", "ccomp")]
    if word in ("easy", "simple"):
        return tuple(f"ease of {each.lemma_}" for each in infinitives)
    if infinitives:
        return ()
    made = (
        word.removesuffix(old) + new
        for old, new in ((*_GOOD, *_FURTHER) if is_known else _GOOD)
        if word.endswith(old) and len(word) - len(old) + len(new) > _LEAST_LETTERS
    )
    return tuple(dict.fromkeys(made))


def noun_of_deed(participle: Any) -> str:
    """What is well written has good writing."""
    lemma = participle.lemma_.lower()
    return f"{lemma.removesuffix('e')}ing"
