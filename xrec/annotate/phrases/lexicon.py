"""What the reviews of a catalogue teach: which nouns are aspects, and what its items are called.

An aspect is spoken of in many reviews, of several items, often with an opinion; it is not what the
reviews call the items themselves ("this film"), nor the writer's own ("my hair"), nor a name.
Whether an adjective praises is known by lexicons of English; where they do not know it, by the
adjectives that "and" joins it to (Hatzivassiloglou and McKeown, 1997).
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from xrec.annotate.phrases.mentions import (
    PARSED,
    PARSED_SCHEMA,
    Mention,
    Parsed,
    is_english,
    key_of,
    read,
)
from xrec.annotate.vocabulary import normalized
from xrec.config import VocabularyConfig
from xrec.data.english import valence, word_set
from xrec.data.parser import pack, parse
from xrec.progress import progress
from xrec.storage import Location, content_hash, read_table, write_table

_FILE = "annotator/phrases.parquet"
_PARSED_TOGETHER = 128  # texts
_MOST_ASPECTS = 2000
_LEAST_ITEMS = 2
_LEAST_NOUNS = 3  # reviews that have an aspect as a noun, and that say that items have it
_LEAST_OPINIONS = 0.15  # share of the reviews with an aspect that have an opinion on it, at least
_LEAST_PARTS = 0.07  # share of them that say that the item has it
_LEAST_CALLED = 0.2  # share of the mentions of a noun by which the text calls its item so
_LEAST_POINTED = 0.05  # share of them that is `this` or `these`
_MOST_OWN = 0.3  # share of the mentions that are the writer's own
_LEAST_JOINED, _LEAST_AGREEING = 5, 0.8  # of the known adjectives that another is joined to
_PRIOR = 4.0  # reviews that what all items are called counts
_MOST_ITEMS = 0.25  # share of what items are called, from which any item is called so
_LEARNED = 0.4  # valence of an adjective that is learned
# Nouns of English that name no part or quality of anything: measures, people, and the review.
_NO_ASPECTS = word_set(
    "people person man woman guy lady child kid family friend audience viewer reader user owner "
    "customer buyer player fan folk thing lot bit way kind sort type time day week month year "
    "hour minute moment today night reason fact point case example rest half end number review "
    "reviewer star purchase use need job idea piece place spot world life hand addition "
    "experience choice option version stuff money ability result chance sense success"
)
_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("written", pa.string(), nullable=False),
        pa.field("num_reviews", pa.int32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # aspect, item, adjective, all
        pa.field("valence", pa.float32(), nullable=False),  # of an adjective that is learned
    ]
)


def names_nothing(noun: str) -> bool:
    """Whether a noun in lower case is one of `_NO_ASPECTS`, or a stop word of spaCy's."""
    from spacy.lang.en.stop_words import STOP_WORDS  # spaCy takes a second

    return noun in _NO_ASPECTS or noun in STOP_WORDS


@dataclass(frozen=True)
class Lexicon:
    """What was learned.

    aspects: how each is written most often. items: what items are called, each as it is written
    behind `this` or `these` ("these strings" of string), with its share of all that they are
    called.
    valences: of adjectives that the lexicons of English lack. num_reviews: of those with a noun, by
    noun. num_learned: of all reviews.
    """

    aspects: Mapping[str, str]
    items: Mapping[str, tuple[str, float]]
    valences: Mapping[str, float]
    num_reviews: Mapping[str, int]
    num_learned: int

    def aspect_of(self, mention: Mention) -> tuple[str, str] | None:
        """The aspect that a mention is, and how it is written there; else None.

        What a name stands before is another thing ("the Marshall sound"), and so is the writer's. A
        story line is no line, but a guitar strap is a strap, since items are called guitars.
        """
        if mention.is_named or mention.is_own or (mention.of and mention.of not in self.items):
            return None
        if mention.described in self.aspects:
            return mention.described, self.aspects[mention.described]
        for name, written in zip(mention.names, mention.written, strict=True):
            if name in self.aspects:
                return name, self.aspects[name] if mention.implied_by else written
            if not mention.implied_by and name.partition(" ")[0] not in self.items:
                return None
        return None

    def called(self, names: Iterable[str]) -> str:
        """What an item is called, as `this film`; empty if its reviews call it nothing.

        names: the noun of each review that says `this` of it. What items of the catalogue are
        called counts too, so that a hotel is no site because a review speaks of "this site".
        """
        counts = Counter(names)
        score = {
            name: counts[name] + _PRIOR * share
            for name, (_, share) in self.items.items()
            if counts[name] or share > _MOST_ITEMS
        }
        best = max(score, key=lambda name: (score[name], name), default="")
        return self.items[best][0] if best else ""


def learn_phrases(
    reviews: pa.Table, output: Location, *, min_reviews: int, vocabulary: VocabularyConfig
) -> None:
    """Write what the reviews (schema REVIEWS) teach, and their parses, to files below `output`.

    Ray must be initialised: all its CPUs parse.
    """
    from xrec.bulk import map_in_processes, num_cpus  # Ray, which `prepare` does without

    item_ids, *headed = (reviews[name].to_pylist() for name in ("item_id", "summary", "review"))
    whole = [joined_text(*each) for each in zip(*headed, strict=True)]
    starts = range(0, len(whole), _PARSED_TOGETHER)
    batches = [whole[start : start + _PARSED_TOGETHER] for start in starts]
    done = map_in_processes(lambda: _parsed, batches, num_processes=num_cpus())
    parsed = dict(progress(done, f"batches of {_PARSED_TOGETHER} reviews parsed", len(batches)))
    counts, rows = _Counts(), []
    for place, item_id in enumerate(item_ids):
        batch, number = divmod(place, _PARSED_TOGETHER)
        if (found := parsed[batch][number]) is not None:
            data, review = found
            counts.add(item_id, review)
            rows.append({"key": key_of(whole[place]), "doc": data})
    write_table(output / PARSED, pa.Table.from_pylist(rows, schema=PARSED_SCHEMA), PARSED_SCHEMA)
    write_table(output / _FILE, counts.table(len(rows), min_reviews, vocabulary), _SCHEMA)


def _parsed(texts: Sequence[str]) -> list[tuple[bytes, Parsed] | None]:
    """Parse texts; None are those in other languages than English."""
    english = [is_english(text) for text in texts]
    docs = parse(itertools.compress(texts, english))
    return [(pack(doc := next(docs)), read(doc)) if known else None for known in english]


def joined_text(summary: str, text: str) -> str:
    """A review's heading as its first sentence, and its text."""
    return f"{summary}. {text}" if summary else text


def fingerprint_of_phrases(output: Location) -> str:
    """The hash of what `learn_phrases` wrote."""
    return content_hash((output / _FILE).read_bytes())


def read_lexicon(output: Location) -> Lexicon:
    """What `learn_phrases` wrote."""
    rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in read_table(output / _FILE, _SCHEMA).to_pylist():
        rows[row["kind"]].append(row)
    num_called = sum(row["num_reviews"] for row in rows["item"])
    return Lexicon(
        {row["name"]: row["written"] for row in rows["aspect"]},
        {row["name"]: (row["written"], row["num_reviews"] / num_called) for row in rows["item"]},
        {row["name"]: row["valence"] for row in rows["adjective"]},
        {row["name"]: row["num_reviews"] for row in rows["aspect"]},
        rows["all"][0]["num_reviews"],
    )


@dataclass
class _Noun:
    """In how many reviews a noun is, and in how many of them each is said of it."""

    reviews: int = 0
    judged: int = 0
    parts: int = 0
    called: int = 0
    pointed: int = 0
    own: int = 0
    items: set[str] = field(default_factory=set)
    written: Counter[str] = field(default_factory=Counter)


@dataclass
class _Counts:
    """What is counted over reviews.

    proper: in how many a word is part of a proper name. implied: in how many an adjective stands
    for a noun, as comfortable does for comfort. joined: valences of the known adjectives that "and"
    joins an unknown one to.
    """

    nouns: defaultdict[str, _Noun] = field(default_factory=lambda: defaultdict(_Noun))
    proper: Counter[str] = field(default_factory=Counter)
    implied: Counter[str] = field(default_factory=Counter)
    joined: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, item_id: str, review: Parsed) -> None:
        """Count a review."""
        said: dict[str, list[Mention]] = {}
        implied = [each for each in review.mentions if each.implied_by == "adjective"]
        self.implied.update({name: 1 for each in implied for name in each.names})
        for mention in review.mentions:
            if mention.implied_by:
                continue
            for name, written in zip(mention.names, mention.written, strict=True):
                said.setdefault(name, []).append(mention)
                self.nouns[name].written[written] += 1
        for name, mentions in said.items():
            noun = self.nouns[name]
            noun.reviews += 1
            noun.items.add(item_id)
            noun.judged += any(each.strength for each in mentions)
            noun.parts += any(each.is_part for each in mentions)
            noun.called += any(each.is_what_it_is for each in mentions)
            noun.pointed += any(each.is_pointed for each in mentions)
            noun.own += any(each.is_own for each in mentions)
        self.proper.update(sorted(review.proper))
        for pair in review.joined:
            for word, other in (pair, pair[::-1]):
                if not valence(word) and (known := valence(other)):
                    self.joined[word].append(known)

    def table(self, num_learned: int, min_reviews: int, vocabulary: VocabularyConfig) -> pa.Table:
        """The table that `read_lexicon` reads."""
        names = sorted(self.nouns, key=lambda name: (-self.nouns[name].reviews, name))
        aspects = [name for name in names if self._is_aspect(name, min_reviews)]
        added, dropped = map(normalized, vocabulary.add), set(map(normalized, vocabulary.drop))
        wanted = dict.fromkeys((*added, *aspects[:_MOST_ASPECTS]))
        rows = [self._row(name, "aspect") for name in wanted if name not in dropped]
        rows += [
            self._row(name, "item") | self._as_called(name)
            for name in names
            if self._is_item(name, min_reviews)
        ]
        rows += [
            {"name": word, "kind": "adjective", "valence": learned, "num_reviews": len(known)}
            for word, known in sorted(self.joined.items())
            if (learned := _learned(known))
        ]
        rows.append({"name": "", "kind": "all", "num_reviews": num_learned})
        empty = {"written": "", "valence": 0.0}
        return pa.Table.from_pylist([empty | row for row in rows], schema=_SCHEMA)

    def _row(self, name: str, kind: str) -> dict[str, Any]:
        noun = self.nouns[name]
        return {
            "name": name,
            "kind": kind,
            "written": max(noun.written, key=lambda way: (noun.written[way], way), default=name),
            "num_reviews": noun.reviews,
        }

    def _is_aspect(self, name: str, min_reviews: int) -> bool:
        noun, head = self.nouns[name], name.rpartition(" ")[2]
        return (
            noun.reviews >= min(_LEAST_NOUNS, min_reviews)
            and noun.reviews + self.implied[name] >= min_reviews
            and len(noun.items) >= _LEAST_ITEMS
            and not names_nothing(head)
            and valence(head) >= 0
            and self._is_common(name)
            and not (self._is_called(name) or self._is_called(head))
            and self._is_judged_part(name)
        )

    def _is_judged_part(self, name: str) -> bool:
        """Whether the reviews judge it, and say that items have it; what is implied is both."""
        noun, implied = self.nouns[name], self.implied[name]
        total = noun.reviews + implied
        return (
            _at_least(noun.judged + implied, total) >= _LEAST_OPINIONS
            and noun.parts + implied >= max(_LEAST_NOUNS, _LEAST_PARTS * total)
            and noun.own <= _MOST_OWN * noun.reviews
        )

    def _is_item(self, name: str, min_reviews: int) -> bool:
        """Whether it is a noun of one word that the reviews call their items by."""
        noun = self.nouns[name]
        return (
            noun.reviews >= min_reviews
            and " " not in name
            and not names_nothing(name)
            and not valence(name)
            and self._is_common(name)
            and noun.pointed >= max(2, _LEAST_POINTED * noun.reviews, noun.parts + 1)
        )

    def _as_called(self, name: str) -> dict[str, Any]:
        written = self.nouns[name].written
        ways = (way for way in sorted(written) if way != name)
        plural = max(ways, key=written.__getitem__, default=name)
        called = f"these {plural}" if written[plural] > written[name] else f"this {name}"
        return {"written": called, "num_reviews": self.nouns[name].pointed}

    def _is_called(self, name: str) -> bool:
        return self.nouns[name].called > _LEAST_CALLED * self.nouns[name].reviews

    def _is_common(self, name: str) -> bool:
        """Whether it is no proper name in most reviews."""
        words = name.split(" ")
        return all(self.proper[word] < self.nouns[name].reviews for word in words)


def _at_least(count: int, total: int) -> float:
    """The share `count` of `total`, less what chance may have added (Wilson, z = 1)."""
    share = count / total
    margin = math.sqrt(share * (1 - share) / total + 1 / (4 * total**2))
    return (share + 1 / (2 * total) - margin) / (1 + 1 / total)


def _learned(known: Sequence[float]) -> float:
    """The valence of an adjective that "and" joins to others of these valences; 0 if unclear."""
    if len(known) < _LEAST_JOINED:
        return 0.0
    good = sum(each > 0 for each in known) / len(known)
    return _LEARNED if good >= _LEAST_AGREEING else -_LEARNED if 1 - good >= _LEAST_AGREEING else 0
