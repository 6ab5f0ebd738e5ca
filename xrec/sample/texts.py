"""The language of the town, made from templates; a text names an aspect by its phrase in ASPECTS.

Only the phrase itself reveals an aspect: titles, trades, people, and habits are drawn
independently.

A small language model is trained on texts about people and places that are not in the town. In
these texts the user's profile states the taste, so the model learns that an explanation names the
aspect of the item that the user likes best. If the item has none of the stated aspects, the
explanation names the first one in its profile, so the model also learns not to name aspects that
the item lacks. In the town no profile states a taste; only the collaborative vector can provide
it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random


def _listed(words: str) -> list[str]:
    return words.split(", ")


# An item's profile phrases an aspect in one of these ways or as "its ..."; a sentence on taste uses
# the first one. A text names an aspect if it contains the key, in any case; no other phrase has
# these words.
_PHRASINGS = {
    "late hours": ("late hours", "late hours all week"),
    "quiet garden": ("a quiet garden", "a quiet garden out back"),
    "live music": ("live music", "live music on Fridays"),
    "dog-friendly tables": ("dog-friendly tables", "plenty of dog-friendly tables"),
    "fresh pastries": ("fresh pastries", "fresh pastries every day"),
    "strong coffee": ("strong coffee", "good strong coffee"),
    "river view": ("a river view", "a wide river view"),
    "board games": ("board games", "a shelf of board games"),
}
ASPECTS = tuple(_PHRASINGS)
ASPECTS_PER_ITEM = 4
_ITEM_TEMPLATES = (
    "A {mood} {trade} on {street}, run by {owner}. Guests praise {aspects}.",
    "This {mood} {trade} on {street} belongs to {owner}. It offers {aspects}.",
    "{owner} opened this {mood} {trade} on {street}. People come for {aspects}.",
    "On {street} stands a {mood} {trade}, kept by {owner}. It is known for {aspects}.",
)
_MOODS = _listed("cosy, bright, rustic, tiny, busy, simple, charming, modern, homely, spacious")
_TRADES = _listed(
    "bakery, bistro, tavern, tea room, diner, bookshop, cellar bar, canteen, brewery, deli"
)
_STREETS = _listed(
    "Mill Lane, Abbey Road, Station Street, Castle Hill, Market Row, Church Walk, Orchard Close, "
    "Bridge End"
)
_OWNERS = _listed(
    "two sisters, a retired sailor, a young couple, the Novak family, an old baker, three friends, "
    "a former teacher, the Okoro family"
)
_TITLE_FIRST = _listed(
    "Copper, Silver, Blue, Crooked, Golden, Wandering, Velvet, Rusty, Painted, Lucky, Hidden, "
    "Sleepy, Merry, Olive, Paper, Salty"
)
_TITLE_SECOND = _listed(
    "Kettle, Lantern, Fox, Spoon, Anchor, Sparrow, Barrel, Thimble, Compass, Acorn, Saddle, "
    "Pepper, Wheel, Button, Heron, Feather"
)
_USER_TEMPLATES = (
    "{person} in their {age}, who comes {way} {when}, mostly with {company}.",
    "{person} in their {age}. Goes out {when} with {company} and arrives {way}.",
    "Goes out {when}, {way}, usually with {company}: {person_lower} in their {age}.",
)
_PERSONS = _listed(
    "A nurse, A carpenter, A student, A lawyer, A gardener, A programmer, A postman, A painter, "
    "A chemist, A plumber, A librarian, A pilot"
)
_AGES = _listed("twenties, thirties, forties, fifties, sixties")
_WAYS = _listed("by bike, on foot, by bus, by car, by tram")
_TIMES = _listed("at weekends, on weekdays, at lunchtime, once a week, twice a month, on Sundays")
_COMPANIES = _listed("old friends, colleagues, the family, a partner, a neighbour, two cousins")
_EXPLANATION_TEMPLATES = (
    "You would enjoy {title} for its {aspect}, just the thing for you.",
    "With its {aspect}, {title} is a place that suits your taste very well.",
    "You are likely to love {title}, because its {aspect} will win you over.",
    "{title} is a good choice for you, above all for its {aspect}.",
)
# A sentence on taste uses one part of a row for each aspect that it states.
_TASTE_TEMPLATES = (
    ("Loves {0} above all", ", then {1}", ", then {2}"),
    ("Cares most about {0}", ", then {1}", ", then {2}"),
    ("Likes nothing more than {0}", ", after that {1}", " and then {2}"),
)
_MAX_STATED_ASPECTS = 3
NUM_PLAIN_TITLES = len(_TITLE_FIRST) * len(_TITLE_SECOND)


def item_title(number: int) -> str:
    """Return the title of place `number` (from 0), different for each number."""
    edition, name = divmod(number, NUM_PLAIN_TITLES)
    first, second = divmod(name, len(_TITLE_SECOND))
    title = f"The {_TITLE_FIRST[first]} {_TITLE_SECOND[second]}"
    return title if edition == 0 else f"{title} No. {edition + 1}"


def item_profile(aspects: Sequence[str], rng: Random) -> str:
    """Return 25 to 35 words that name the item's four aspects, in random order."""
    named = [_phrase(aspect, rng) for aspect in rng.sample(aspects, k=ASPECTS_PER_ITEM)]
    text = rng.choice(_ITEM_TEMPLATES).format(
        mood=rng.choice(_MOODS),
        trade=rng.choice(_TRADES),
        street=rng.choice(_STREETS),
        owner=rng.choice(_OWNERS),
        aspects=f"{', '.join(named[:-1])} and {named[-1]}",
    )
    return text[0].upper() + text[1:]


def _phrase(aspect: str, rng: Random) -> str:
    plain, longer = _PHRASINGS[aspect]
    return rng.choice((plain, f"its {aspect}", longer))


def user_profile(rng: Random) -> str:
    """Return 12 to 18 words on who the user is and how they travel, but not on their taste."""
    person = rng.choice(_PERSONS)
    return rng.choice(_USER_TEMPLATES).format(
        person=person,
        person_lower=person[0].lower() + person[1:],
        age=rng.choice(_AGES),
        way=rng.choice(_WAYS),
        when=rng.choice(_TIMES),
        company=rng.choice(_COMPANIES),
    )


def explanation(title: str, aspect: str, rng: Random) -> str:
    """Return 10 to 18 words that name one aspect."""
    return rng.choice(_EXPLANATION_TEMPLATES).format(title=title, aspect=aspect)


def taste_sentence(favourites: Sequence[str], rng: Random) -> str:
    """Return a sentence that states the 1 to 3 favorite aspects, best first."""
    phrases = [_PHRASINGS[aspect][0] for aspect in favourites]
    return "".join(rng.choice(_TASTE_TEMPLATES)[: len(phrases)]).format(*phrases) + "."


@dataclass(frozen=True)
class LanguageExample:
    """One training example; its user profile begins with a sentence that states the taste."""

    user_profile: str
    item_title: str
    item_profile: str
    explanation: str


def generate_language_examples(num_examples: int, seed: int) -> list[LanguageExample]:
    """Return `num_examples` examples of random users and places, drawn independently of a town."""
    rng = Random(f"language {seed}")
    return [_example(rng) for _ in range(num_examples)]


def _example(rng: Random) -> LanguageExample:
    favourites = rng.sample(ASPECTS, k=rng.randint(1, _MAX_STATED_ASPECTS))
    aspects = rng.sample(ASPECTS, k=ASPECTS_PER_ITEM)
    profile = item_profile(aspects, rng)
    first_named = min(aspects, key=profile.lower().index)
    best = next((aspect for aspect in favourites if aspect in aspects), first_named)
    title = item_title(rng.randrange(NUM_PLAIN_TITLES))
    return LanguageExample(
        user_profile=f"{taste_sentence(favourites, rng)} {user_profile(rng)}",
        item_title=title,
        item_profile=profile,
        explanation=explanation(title, best, rng),
    )
