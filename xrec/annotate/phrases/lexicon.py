"""Which noun phrases are aspects, learned from training reviews; and how they are written.

An aspect is in many reviews and in not too many, has an opinion on it often enough ("a great
tone"), and is not what the reviews call the item itself ("this pedal").
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from xrec.annotate.phrases.attributes import ATTRIBUTES, attributes
from xrec.annotate.phrases.grammar import valence
from xrec.annotate.phrases.mentions import Phrase, noun_phrases, proper_names
from xrec.config.annotate import PhrasesAnnotator
from xrec.data.english import word_set
from xrec.storage import Location, content_hash, read_table, write_table

_FILE = "annotator/phrases.parquet"
_LEAST_COUNT = 2
_MOST_POINTED = 0.025  # share of `this pedal` among the mentions of a pedal
_LEAST_POINTED = 2
_LEAST_OPINIONS = 0.25  # share of the reviews with an aspect that have an opinion on it
_NAMES_SHOWN = 2**18
_MOST_ASPECTS = 2000
# Words of praise for an item as a whole that reviews say `this` of all the same.
USUAL_ASPECTS = word_set(
    "price value quality design fit look feel size sound service food atmosphere location staff "
    "taste flavor plot story writing pace ending comfort style color finish feature performance "
    "setup control display screen sustain action padding construction material"
)
# Praise for the item itself, and no part of it.
NO_ASPECTS = word_set(
    "care bell "
    "guitarist musician player replacement alternative improvement bargain investment toy "
    "solution addition upgrade tank monster wonder baby monkey beast gem winner must purchase buy "
    "shop reputation feedback notice matter tip step duty condition state piece concern worry "
    "stress damage loss business expert attempt effort preference impression consideration "
    "benefit trick wish choice plenty spot course fault reviewing budget rest hesitation pleasure "
    "name hum hiss buzz noise scratch junk difficulty basis note practice gig band song music "
    "studio stage room home house car venue church school rock metal jazz blues country finger "
    "hand ear ears neck knee arm leg foot feet head eye eyes brainer exception fall aspect factor "
    "advantage bet heaven pun praise news magic idea dream excuse refund cat dog party artist "
    "student engineer retailer dealer audiophile performer adult teacher competition estate "
    "compromise firm sense point portion group information habit concept interest fuss knowledge "
    "territory jump guarantee standard overkill flash breakage dent rattle squeak residue smell "
    "environment project increase release force reference line entry tag hat jam impact measure "
    "glove candy intention saver treat steal amount quantity out core array fashion apartment "
    "hump vibe medium part end hassle reservation gripe hiccup smudge fluctuation butter "
    "workhorse crowd glasses art science success occasion object imho companion invention "
    "approach niche lint drink hall goodness imitation insurance experience surprise cheese risk "
    "snag quirk nuisance mess pain joy smile grin favor blessing lifesaver godsend keeper"
)
_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("written", pa.string(), nullable=False),
        pa.field("num_reviews", pa.int32(), nullable=False),
        pa.field("num_with_opinion", pa.int32(), nullable=False),
        pa.field("num_pointed", pa.int32(), nullable=False),
        pa.field("is_aspect", pa.bool_(), nullable=False),
        pa.field("is_proper", pa.bool_(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Lexicon:
    """What was learned.

    aspects: of each aspect how it is written most often. things: what items are called, with the
    share of its mentions behind `this`. num_reviews: how many of the reviews have
    a phrase or, capitalized, a proper name. num_learned: the number of reviews.
    """

    aspects: Mapping[str, str]
    things: Mapping[str, float]
    num_reviews: Mapping[str, int]
    num_learned: int

    def aspect_of(self, phrase: Phrase) -> tuple[str, str] | None:
        """The longest aspect that the phrase ends with, and how it is written; else None.

        What a name stands before is another thing: "the Marshall sound".
        """
        if phrase.is_named:
            return None
        for name in phrase.names:
            if (written := self.aspects.get(name)) is not None:
                return name, written
        return None


def learn_phrases(reviews: pa.Table, output: Location, *, config: PhrasesAnnotator) -> None:
    """Write what the reviews (schema REVIEWS) teach to a file below `output`."""
    counts = _Counts()
    for text, summary in zip(
        reviews["review"].to_pylist(), reviews["summary"].to_pylist(), strict=True
    ):
        counts.add(f"{summary}. {text}" if summary else text)
    write_table(output / _FILE, counts.table(reviews.num_rows, config), _SCHEMA)


def fingerprint_of_phrases(output: Location) -> str:
    """The hash of what `learn_phrases` wrote."""
    return content_hash((output / _FILE).read_bytes())


def read_lexicon(output: Location) -> Lexicon:
    """What `learn_phrases` wrote."""
    table = read_table(output / _FILE, _SCHEMA)
    aspects = table.filter(table["is_aspect"])
    counts = dict(zip(table["name"].to_pylist(), table["num_reviews"].to_pylist(), strict=True))
    num_learned = counts.pop("", 1)
    names = ("name", "num_reviews", "num_pointed")
    things = {
        name: pointed / count
        for name, count, pointed in zip(*(table[each].to_pylist() for each in names), strict=True)
        if pointed >= _LEAST_POINTED and pointed > _MOST_POINTED * count
    }
    written = dict(zip(aspects["name"].to_pylist(), aspects["written"].to_pylist(), strict=True))
    return Lexicon(written, things, counts, num_learned)


@dataclass
class _Counts:
    """In how many reviews each phrase is, with an opinion, with `this`, and how it is written."""

    reviews: Counter[str] = field(default_factory=Counter)
    with_opinion: Counter[str] = field(default_factory=Counter)
    pointed: Counter[str] = field(default_factory=Counter)
    proper: Counter[str] = field(default_factory=Counter)
    written: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, text: str) -> None:
        found: dict[str, list[bool]] = {}
        for phrase in noun_phrases(text):
            for name, written in zip(phrase.names, phrase.written, strict=True):
                seen = found.setdefault(name, [False, False])
                seen[0] |= phrase.is_described and not phrase.is_named
                seen[1] |= phrase.points
                self.written.setdefault(name, Counter())[written] += 1
        for each in attributes(text):
            found.setdefault(each.aspect, [False, False])[0] = True
            self.written.setdefault(each.aspect, Counter())[each.aspect] += 1
        for name, (has_opinion, points) in found.items():
            self.reviews[name] += 1
            self.with_opinion[name] += has_opinion
            self.pointed[name] += points
        self.proper.update(sorted(proper_names(text)))  # a set's order differs between processes

    def table(self, num_learned: int, config: PhrasesAnnotator) -> pa.Table:
        aspects = self._aspects(num_learned, config)
        least = min(_LEAST_COUNT, config.min_reviews)
        kept = [name for name, count in self.reviews.most_common() if count >= least]
        rows = [
            (
                name,
                self.written[name].most_common(1)[0][0],
                self.reviews[name],
                self.with_opinion[name],
                self.pointed[name],
                name in aspects,
                False,
            )
            for name in kept[:_NAMES_SHOWN]
        ]
        proper = [name for name, count in self.proper.most_common() if count >= _LEAST_COUNT]
        rows += [
            (name, name, self.proper[name], 0, 0, False, True) for name in proper[:_NAMES_SHOWN]
        ]
        rows.append(("", "", num_learned, 0, 0, False, False))
        columns = list(zip(*rows, strict=True))
        return pa.table(
            [pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA
        )

    def _aspects(self, num_learned: int, config: PhrasesAnnotator) -> set[str]:
        found = [
            name
            for name, count in self.reviews.most_common()
            if config.min_reviews
            <= count
            <= max(config.max_share * num_learned, config.min_reviews)
            and self._is_judged(name, count, config)
        ]
        return {*found[:_MOST_ASPECTS], *ATTRIBUTES}

    def _is_judged(self, name: str, count: int, config: PhrasesAnnotator) -> bool:
        head = name.rpartition(" ")[2]
        if head in NO_ASPECTS or valence(head) < 0 or valence(name) < 0:
            return False
        is_thing = max(self._pointed_share(head), self._pointed_share(name)) > _MOST_POINTED
        is_praised = self.with_opinion[name] >= _LEAST_OPINIONS * count
        return is_praised and (head in USUAL_ASPECTS or not is_thing)

    def _pointed_share(self, name: str) -> float:
        return self.pointed[name] / max(1, self.reviews[name])
