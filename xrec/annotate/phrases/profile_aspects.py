"""The aspects of profiles: which of their phrases are a vocabulary, and what each text names of it.

A phrase is an aspect if neither too few nor too many profiles have it. Of a phrase with several
names an item gets the longest that is an aspect: of "fresh handmade pasta", where only few profiles
have all of it, handmade pasta or pasta.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from xrec.annotate.phrases.profile_words import ALWAYS_CAPITAL
from xrec.annotate.phrases.profiles import Reason, reasons
from xrec.config.data import ProfileAspects
from xrec.data.aspects import NamedAspects
from xrec.data.english import of_one_item
from xrec.errors import DataError

_WORD = re.compile(r"[A-Za-z][\w'-]*")
_PLURAL = 0.25  # the share of a name's places in the plural, from which it is written so
_LEAST_LOWER = 0.2  # the share of a word's places in lower case, below which it is a name


def find_aspects(
    profiles: Sequence[str], explanations: Sequence[str], config: ProfileAspects
) -> NamedAspects:
    """Return the aspects of the profiles, and those of them that the explanations name.

    An explanation names the parts of a phrase too: one of "friendly waiters" names waiters, if that
    is an aspect. The aspects are in the order of the number of profiles. Raises DataError if there
    is none.
    """
    found = [list(reasons(profile)) for profile in profiles]
    num_profiles = Counter(name for each in found for name in _all_names(each))
    most = max(config.min_items, config.max_share * sum(bool(profile) for profile in profiles))
    written = _written(found)
    capitalized = _capitalized(profiles)
    vocabulary = [
        name
        for name, count in sorted(num_profiles.items(), key=lambda each: (-each[1], each[0]))
        if config.min_items <= count <= most and written[name].split(" ")[-1] not in capitalized
    ]
    if not vocabulary:
        raise DataError(
            f"aspects_from: no phrase is in the profiles of {config.min_items} to {most:.0f} "
            f"items; saw {len(profiles)} items and {len(num_profiles)} phrases; lower "
            "aspects_from.min_items, give the items profiles, or leave aspects_from out"
        )
    numbers = {name: number for number, name in enumerate(vocabulary)}
    return NamedAspects(
        [written[name] for name in vocabulary],
        [
            [_longest(reason, numbers) for reason in each if reason.keys() & numbers]
            for each in found
        ],
        [
            [numbers[name] for name in _all_names(reasons(text)) if name in numbers]
            for text in explanations
        ],
    )


def _all_names(found: Iterable[Reason]) -> list[str]:
    """All names, each once, as they come."""
    return list(dict.fromkeys(name for reason in found for name in reason))


def _longest(reason: Reason, numbers: Mapping[str, int]) -> int:
    """The number of the longest name that is an aspect; of equally long ones the rarest."""
    known = [name for name in reason if name in numbers]
    return numbers[max(known, key=lambda name: (name.count(" "), numbers[name]))]


def _written(found: Sequence[Sequence[Reason]]) -> dict[str, str]:
    """How each name is written most often; in the plural if it often is, and is no kind of place.

    Of books, "book lovers" are no reason to call them book. One whom "fans of Irish pubs would
    enjoy" is one pub.
    """
    ways: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for reason in (reason for each in found for reason in each):
        for name, written in reason.items():
            ways[name][written] += 1
    return {name: _best_way(name, counts) for name, counts in ways.items()}


def _best_way(name: str, counts: Counter[str]) -> str:
    plurals = [way for way in counts if way != name and counts[way] >= _PLURAL * counts.total()]
    return of_one_item(max(plurals or counts, key=lambda way: (counts[way], way)))


def _capitalized(texts: Iterable[str]) -> set[str]:
    """Words in lower case that the texts nearly always capitalize, as they do names."""
    counts: Counter[str] = Counter()
    lower: Counter[str] = Counter()
    for word in (word for text in texts for word in _WORD.findall(text)):
        counts[word.lower()] += 1
        lower[word.lower()] += word[0].islower()
    names = {word for word, count in counts.items() if lower[word] < _LEAST_LOWER * count}
    return names - ALWAYS_CAPITAL
