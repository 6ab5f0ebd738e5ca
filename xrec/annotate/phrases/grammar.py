"""The words of a text, each with the part of speech that its lexicon and its neighbours give it.

It is no parser: it has to tell nouns and adjectives in a million reviews, at some 20 us a sentence.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from xrec.data.english import tags, valences, word_set

Part = str
NOUN, NAME, ADJECTIVE, ADVERB, VERB, LINK, STOP, NOT, AND = "NPARVLSTC"
_MAY_BE_NAMES = frozenset({NOUN, STOP, VERB})

_WORD = re.compile(r"[A-Za-z][A-Za-z'\u2019-]*[A-Za-z]|[A-Za-z]|\d[\w.,/'\"-]*|[^\sA-Za-z\d]")
_CLAUSE_ENDS = frozenset('.!?;:()[]{}"\u201c\u201d\u2026\u2014')
_SENTENCE_ENDS = frozenset(".!?\u2026")
_LINKS = word_set(
    "is are was were be been being 's 're sounds looks feels seems works tastes smells sound look "
    "feel seem stays stay remains remain gets became turned runs"
)
NEGATIONS = word_set(
    "not no never n't without hardly barely lacks lack lacking don't doesn't didn't isn't aren't "
    "wasn't weren't can't cannot couldn't won't wouldn't dont doesnt didnt isnt cant nor neither "
    "zero"
)
_BEFORE_NOUNS = word_set(
    "the a an this that these those its it's my your his her their our some any no every each "
    "very more most such"
)
BEFORE_VERBS = word_set(
    "i you we they he she it to will would can could should may might must does do did don't "
    "doesn't didn't won't can't wouldn't couldn't i'll i'd you'll they'll who that's let"
)
_ADVERBS = word_set(
    "very really so too quite pretty extremely super incredibly truly absolutely always still "
    "also just even more most rather fairly exceptionally amazingly surprisingly perfectly"
)
# Words that the lexicon takes for nouns or adjectives, and that name or tell nothing of an item.
_STOP = word_set(
    "thing things way ways lot lots bit one ones time times day days week weeks month months year "
    "years hour hours minute minutes second seconds moment today night morning people person man "
    "guy guys friend friends wife husband son daughter kid kids child children boy girl family "
    "brother sister dad mom father mother everyone anyone someone something anything everything "
    "nothing reason reasons point fact problem problems issue issues complaint complaints trouble "
    "doubt question questions answer money dollar dollars buck bucks cent purchase order review "
    "reviews reviewer reviewers star stars amazon ebay store item items product products company "
    "seller brand stuff kind sort type types version choice option options idea example job deal "
    "favor fan fun luck hope side end part half top bottom rest pair set couple number amount use "
    "need needs want wish try thanks please edit update pros cons plus minus love like likes lol "
    "ok okay yes yeah etc i'm i've i'd i'll it's that's there's there here me mine yours while "
    "back home place world life mind hand hands head others another least lack help look start "
    "line word words difference change chance process result results experience opinion opinions "
    "user users owner customer customers recommendation sure able new old other same own first "
    "last next many few much several different only whole main certain such which what who "
    "whatever however anyway ago now then once overall bonus gift surprise must-have must total "
    "everybody nobody someday somewhere comparison regards regard beginner beginners deals "
    "description picture pictures photo photos shipping delivery advertisement expectation "
    "expectations mistake instance occasion level range area variety majority addition shame "
    "disappointment joke steal winner champ charm breeze blast"
)
_LEAST_PRAISE = 0.3
# Adjectives that sound good to the lexicons, and praise no aspect that they stand before.
_NO_PRAISE = word_set(
    "worth worthy true important original particular special free active live main real hot full "
    "distinct many much more most high higher highest low large larger big huge able ready sure "
    "happy glad pleased satisfied impressed thankful grateful surprised lucky honest legal "
    "positive interested interesting worthwhile useful helpful handy cheap cheaper first last "
    "well kind like super okay fine decent ideal unbelievable modern certain right clever funny "
    "christian american successful popular famous favorite favourite best better easy easier "
    "quick fast simple deep thick thin light heavy soft strong tight common intelligent smart "
    "young romantic sexual sacred social fair adequate compatible electric acoustic vintage "
    "classic new novel complete total whole entire available various"
)
_NOUN_TAGS, _ADJECTIVE_TAGS = frozenset({"NN", "NNS"}), frozenset({"JJ"})
_VERB_TAGS = frozenset({"VB", "VBP", "VBZ", "VBD", "VBN", "VBG"})
# The lexicon has these as verbs or not at all; in reviews they are nouns more often.
_NOUNS = word_set(
    "feel build fit finish look setup strap pedal pick sustain response resonance intonation "
    "tuning playability volume coating padding stitching packaging price value design display "
    "stand mount lock clamp plug cover rest hanger drum winder screen battery clip"
)


@dataclass(slots=True)
class Clause:
    """Words between marks that end a sentence or a part of one.

    They are lists of equal length: words as they are written, in lower case, parts of speech.
    """

    written: list[str] = field(default_factory=list)
    lower: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)


def clauses(text: str) -> Iterator[Clause]:
    """The clauses of a text."""
    clause = Clause()
    is_first = True
    for token in _WORD.findall(text):
        if token in _CLAUSE_ENDS:
            if clause.parts:
                yield _in_context(clause)
                clause = Clause()
            is_first = token in _SENTENCE_ENDS
            continue
        lower, part = _TOKENS[token]
        if not is_first and part in _MAY_BE_NAMES and token[0].isupper():
            part = NAME
        clause.written.append(token)
        clause.lower.append(lower)
        clause.parts.append(part)
        is_first = False
    if clause.parts:
        yield _in_context(clause)


class _Tokens(dict[str, tuple[str, Part]]):
    """A token in lower case and its part, kept for the next time: texts repeat their words."""

    def __missing__(self, token: str) -> tuple[str, Part]:
        lower = token.lower().replace("\u2019", "'")
        found = (lower, _part(lower))
        if len(self) < _MOST_TOKENS:
            self[token] = found
        return found


_MOST_TOKENS = 2**18
_TOKENS = _Tokens()


@functools.lru_cache(2**17)
def valence(word: str) -> float:
    """How good or bad a word sounds, from -1 to 1; 0 if the lexicons do not know it."""
    return valences().get(word, 0.0)


@functools.lru_cache(2**17)
def describes(adjective: str) -> bool:
    """Whether an adjective may stand before an aspect in praise: "warm" may, "important" not."""
    return valence(adjective) >= _LEAST_PRAISE and (
        adjective not in _NO_PRAISE and tags().get(adjective, "JJ") == "JJ" and len(adjective) > 3
    )


@functools.lru_cache(2**17)
def _part(word: str) -> Part:
    """What a word is by itself."""
    if word == ",":
        return AND
    if word in ("and", "&", "or", "but", "yet"):
        return AND
    if word in NEGATIONS or word.endswith("n't"):
        return NOT
    if word in _LINKS:
        return LINK
    if word in _NOUNS:
        return NOUN
    if word in _ADVERBS:
        return ADVERB
    if word in _STOP or word in _BEFORE_NOUNS or not word[0].isalpha() or len(word) < 2:
        return STOP
    tag = tags().get(word)
    if tag is None:
        return _part_of_unknown(word)
    if tag in _ADJECTIVE_TAGS:
        return ADJECTIVE
    if tag in _NOUN_TAGS:
        return NOUN
    if tag in _VERB_TAGS:
        return VERB
    return ADVERB if tag == "RB" else STOP


def _part_of_unknown(word: str) -> Part:
    """Words that the lexicon lacks are mostly nouns, such as `tuner`; endings tell the others."""
    if len(word) < 4 or "'" in word:
        return STOP
    if word.endswith("ly"):
        return ADVERB
    if word.endswith(("able", "ible", "ful", "less", "ish", "ous", "proof")) or (
        "-" in word and word.endswith(("ed", "made", "looking", "sounding"))
    ):
        return ADJECTIVE
    if word.endswith("s") and (stem := tags().get(word[:-1])) is not None:
        return NOUN if stem in _NOUN_TAGS or word[:-1] in _NOUNS else VERB
    return VERB if word.endswith(("ing", "ize", "ized")) else NOUN


def _in_context(clause: Clause) -> Clause:
    """The clause with words between noun and verb told apart by the word before."""
    lower, parts = clause.lower, clause.parts
    for place in range(1, len(parts)):
        part = parts[place]
        if part == NOUN:
            if lower[place - 1] in BEFORE_VERBS:
                parts[place] = VERB
        elif (
            part in (VERB, LINK)
            and (lower[place - 1] in _BEFORE_NOUNS or parts[place - 1] == ADJECTIVE)
            and lower[place] in _NOUNS_TOO
        ):
            parts[place] = NOUN
    return clause


_NOUNS_TOO = word_set(
    "sound look feel fit work finish build play pick tune use drive mix cut bend read taste smell "
    "touch grip hold reach stretch bite sustain attack punch support protect cover cook drink "
    "serve view walk stay write plot twist end"
)
