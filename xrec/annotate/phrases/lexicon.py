"""Learns from the reviews of a catalog which nouns are aspects, and what its items are called.

An aspect is mentioned in many reviews of several items, often with an opinion. It is not a word for
the items themselves ("this film"), nor something of the writer's own ("my hair").
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from pydantic import TypeAdapter

from xrec.annotate.annotator import joined_text
from xrec.annotate.phrases.mentions import Mention
from xrec.annotate.phrases.reader import MENTIONS, READ, READ_SCHEMA, key_of, read_texts
from xrec.annotate.vocabulary import normalized
from xrec.config import VocabularyConfig
from xrec.data.language import valence, word_set
from xrec.progress import progress
from xrec.storage import Location, content_hash, write_table

_FILE = "annotator/phrases.json"
_BATCH_TEXTS = 128  # parsed together
_MAX_ASPECTS = 2000
_MIN_ITEMS = 2
_MIN_NOUNS = 3  # reviews that use an aspect as a noun, and that say that items have it
_MIN_OPINIONS = 0.15  # share of an aspect's reviews that have an opinion on it
_MIN_PARTS = 0.07  # share of an aspect's reviews that say that the item has it
_MIN_CALLED = 0.2  # share of a noun's reviews with `this` or `these` before it, if it is no aspect
_MIN_POINTED = 0.05  # the same share, if items are called by it
_MAX_OWN = 0.3  # share of a noun's reviews in which it is the writer's own
_PRIOR = 4.0  # reviews that the names of all items count as
_ALWAYS_ITEMS = 0.25  # share among the names of items above which a name suits any item
# English nouns that do not name a part or quality: measures, people, and the review.
_NO_ASPECTS = word_set(
    "people person man woman guy lady child kid family friend audience viewer reader user owner "
    "customer buyer player fan folk thing lot bit way kind sort type time day week month year "
    "hour minute moment today night reason fact point case example rest half end number review "
    "reviewer star purchase use need job idea piece place spot world life hand addition "
    "experience choice option version stuff money ability result chance sense success "
    "boy baby wonder seller issue problem craving visit"
)


def names_nothing(noun: str) -> bool:
    """Return whether a lowercase noun cannot be an aspect: it is on a list, or a stop word."""
    from spacy.lang.en.stop_words import STOP_WORDS  # slow to import

    return noun in _NO_ASPECTS or noun in STOP_WORDS


@dataclass(frozen=True)
class Lexicon:
    """What was learned.

    aspects: the most frequent form of each aspect. items: for each noun for items, its form with
        `this` or `these` ("these strings" for string) and its share among all such nouns.
    num_reviews: the number of reviews that use an aspect as a noun. num_learned: the number of all
        reviews.
    """

    aspects: Mapping[str, str]
    items: Mapping[str, tuple[str, float]]
    num_reviews: Mapping[str, int]
    num_learned: int

    def aspect_of(self, mention: Mention) -> tuple[str, str] | None:
        """Return the aspect that a mention names, and its form in a text; None if it names none.

        A thing with a proper name ("the Marshall sound") is not an aspect, nor is the writer's own.
        A story line is not a line, but a guitar strap is a strap, because items are called guitars.
        The form is the text's plural, or else the usual form: "great actor" becomes "great actors".
        """
        is_own = {"named", "own"}.intersection(mention.roles)
        if is_own or (mention.of and mention.of not in self.items):
            return None
        if mention.described in self.aspects:
            return mention.described, self.aspects[mention.described]
        for name, written in zip(mention.names, mention.written, strict=True):
            if name in self.aspects:
                return name, self.aspects[name] if written == name else written
            if not mention.implied_by and name.partition(" ")[0] not in self.items:
                return None
        return None

    def called(self, names: Iterable[str]) -> str:
        """Return what an item is called, such as `this film`; empty if its reviews do not say.

        names: the nouns after `this` or `these` in its reviews, each once per review. The names of
        other items count too, so that "this site" in one review does not make a hotel a site.
        """
        counts = Counter(names)
        scores = {
            name: counts[name] + _PRIOR * share
            for name, (_, share) in self.items.items()
            if counts[name] or share > _ALWAYS_ITEMS
        }
        best = max(scores, key=lambda name: (scores[name], name), default="")
        return self.items[best][0] if best else ""


def learn_phrases(reviews: pa.Table, output: Location, *, vocabulary: VocabularyConfig) -> None:
    """Learn from reviews (schema REVIEWS); write the lexicon and their mentions under `output`.

    Uses all of Ray's CPUs for parsing, so Ray must be initialized.
    """
    from xrec.processes import map_in_processes, num_cpus  # Ray, which `prepare` does not need

    item_ids, *texts = (reviews[name].to_pylist() for name in ("item_id", "summary", "review"))
    whole = [joined_text(*parts) for parts in zip(*texts, strict=True)]
    starts = range(0, len(whole), _BATCH_TEXTS)
    batches = [whole[start : start + _BATCH_TEXTS] for start in starts]
    done = map_in_processes(lambda: read_texts, batches, num_processes=num_cpus())
    batches_read = dict(progress(done, f"batches of {_BATCH_TEXTS} reviews read", len(batches)))
    counts, rows = _Counts(), []
    for number, item_id in enumerate(item_ids):
        batch, position = divmod(number, _BATCH_TEXTS)
        if (review := batches_read[batch][position]) is not None:
            counts.add(item_id, review)
            mentions = MENTIONS.dump_json(review).decode()
            rows.append({"key": key_of(whole[number]), "mentions": mentions})
    write_table(output / READ, pa.Table.from_pylist(rows, schema=READ_SCHEMA), READ_SCHEMA)
    lexicon = counts.lexicon(len(rows), vocabulary)
    (output / _FILE).write_bytes(_LEXICON.dump_json(lexicon))


def fingerprint_of_phrases(output: Location) -> str:
    """Return the hash of what `learn_phrases` wrote."""
    return content_hash((output / _FILE).read_bytes())


_LEXICON = TypeAdapter(Lexicon)


def read_lexicon(output: Location) -> Lexicon:
    """Read the lexicon that `learn_phrases` wrote."""
    return _LEXICON.validate_json((output / _FILE).read_bytes())


@dataclass
class _Noun:
    """The number of reviews that use a noun, in all and by how they use it, and its items."""

    reviews: int = 0
    judged: int = 0
    roles: Counter[str] = field(default_factory=Counter)
    items: set[str] = field(default_factory=set)
    written: Counter[str] = field(default_factory=Counter)


@dataclass
class _Counts:
    """Counts over reviews; `implied`: reviews in which an adjective implies a noun, by noun."""

    nouns: defaultdict[str, _Noun] = field(default_factory=lambda: defaultdict(_Noun))
    implied: Counter[str] = field(default_factory=Counter)

    def add(self, item_id: str, mentions: Sequence[Mention]) -> None:
        """Count a review."""
        by_name: defaultdict[str, list[Mention]] = defaultdict(list)
        implied = [each for each in mentions if each.implied_by == "adjective"]
        self.implied.update({name for each in implied for name in each.names})
        for mention in (each for each in mentions if not each.implied_by):
            for name, written in zip(mention.names, mention.written, strict=True):
                by_name[name].append(mention)
                self.nouns[name].written[written] += 1
        for name, named in by_name.items():
            noun = self.nouns[name]
            noun.reviews += 1
            noun.items.add(item_id)
            noun.judged += any(mention.sentiment != "neutral" for mention in named)
            noun.roles.update({role for mention in named for role in mention.roles})

    def lexicon(self, num_learned: int, config: VocabularyConfig) -> Lexicon:
        """Return what the counts say; names are sorted by how many reviews use them."""
        names = sorted(self.nouns, key=lambda name: (-self.nouns[name].reviews, name))
        aspects = [name for name in names if self._is_aspect(name, config.min_reviews)]
        added, dropped = map(normalized, config.add), set(map(normalized, config.dropped))
        found = dict.fromkeys((*added, *aspects[:_MAX_ASPECTS]))
        known = [name for name in found if name not in dropped]
        items = [name for name in names if self._is_item(name, config.min_reviews)]
        num_pointed = sum(self.nouns[name].roles["pointed"] for name in items)
        return Lexicon(
            aspects={name: self._written(name) for name in known},
            items={
                name: (self._called(name), self.nouns[name].roles["pointed"] / num_pointed)
                for name in items
            },
            num_reviews={name: self.nouns[name].reviews for name in known},
            num_learned=num_learned,
        )

    def _written(self, name: str) -> str:
        """Return the most frequent form of a name."""
        written = self.nouns[name].written
        return max(written, key=lambda form: (written[form], form), default=name)

    def _called(self, name: str) -> str:
        """Return a noun for items in a form such as `this pedal` or `these strings`."""
        written = self.nouns[name].written
        plurals = (form for form in sorted(written) if form != name)
        plural = max(plurals, key=written.__getitem__, default=name)
        return f"these {plural}" if written[plural] > written[name] else f"this {name}"

    def _is_aspect(self, name: str, min_reviews: int) -> bool:
        """Return whether reviews judge a noun and say that items have it; implied uses do both."""
        noun, head, implied = self.nouns[name], name.rpartition(" ")[2], self.implied[name]
        total = noun.reviews + implied
        return (
            noun.reviews >= min(_MIN_NOUNS, min_reviews)
            and total >= min_reviews
            and len(noun.items) >= _MIN_ITEMS
            and not names_nothing(head)
            and valence(head) >= 0
            and not any(self._is_mostly_item(word) for word in (name, head))
            and _lower_bound(noun.judged + implied, total) >= _MIN_OPINIONS
            and noun.roles["part"] + implied >= max(_MIN_NOUNS, _MIN_PARTS * total)
            and noun.roles["own"] <= _MAX_OWN * noun.reviews
        )

    def _is_item(self, name: str, min_reviews: int) -> bool:
        """Return whether a name is a single noun that reviews use for their items."""
        noun = self.nouns[name]
        num_pointed, num_parts = noun.roles["pointed"], noun.roles["part"]
        return (
            noun.reviews >= min_reviews
            and " " not in name
            and not names_nothing(name)
            and not valence(name)
            and num_pointed >= max(2, _MIN_POINTED * noun.reviews, num_parts + 1)
        )

    def _is_mostly_item(self, name: str) -> bool:
        noun = self.nouns[name]
        return noun.roles["pointed"] > _MIN_CALLED * noun.reviews


def _lower_bound(count: int, total: int) -> float:
    """Return the lower bound of the share `count` of `total` (Wilson, z = 1)."""
    share = count / total
    margin = math.sqrt(share * (1 - share) / total + 1 / (4 * total**2))
    return (share + 1 / (2 * total) - margin) / (1 + 1 / total)
