"""What reviews praise without naming it: "easy to use" praises the ease of use.

Each turn of phrase stands for an aspect. They are general enough for goods, places and books.
"""

import re
from dataclasses import dataclass

from xrec.annotate.phrases.grammar import NEGATIONS, describes

_VERY = r"(?:very |really |so |just |pretty |quite |absolutely |extremely |truly |too )*"
_GOOD = (
    r"(?:great|good|nice|amazing|awesome|fantastic|excellent|wonderful|beautiful|incredible|superb|"
    r"terrific|perfect|sweet|lovely|gorgeous|outstanding)"
)
_WELL = (
    r"(?:well|great|good|fine|perfect(?:ly)?|flawless(?:ly)?|beautifully|wonderfully|nicely|awesome|"
    r"amazing(?:ly)?|excellent|fantastic|superbly)"
)
_PATTERNS: dict[str, str] = {
    "ease_of_use": r"(?:easy|easier|simple|simpler|a breeze|a snap|a cinch) to (?:use|set ?up|"
    r"install|operate|adjust|put|handle|learn|attach|clean|assemble|follow|understand|work with|"
    r"work|program|read|play|bend|change|mount|move|store|get)"
    r"(?: (?:on|off|up|in|out|together|around|back)\b)*|user[- ]friendly",
    "performance": rf"(?:works|worked|working|performs|performed) {_VERY}(?:{_WELL}|like a charm|"
    r"(?:exactly |just )?as (?:advertised|described|expected|intended|it should))|does (?:the|"
    r"its|it's|an? \w+) (?:\w+ )?(?:job|trick|work|duty|purpose)|gets? the job done|"
    r"does (?:exactly )?what (?:(?:it(?:'s| is| was)|they(?:'re| are)) supposed to(?: do)?|"
    r"it (?:says|should|claims)|(?:you|i) (?:need|want|expect)(?:ed)?(?: it to)?)",
    "sound": rf"sound(?:s|ed)? {_VERY}{_GOOD}|(?:{_GOOD}|best)[- ]sounding",
    "quality": r"(?:great|good|excellent|high|top|superb|amazing|best|outstanding)[- ]quality",
    "look": rf"look(?:s|ed)? {_VERY}(?:{_GOOD}|cool|sharp|classy|elegant|stylish)"
    r"|(?:good|great|nice|cool|beautiful|sharp)[- ]looking|attractive|stylish",
    "feel": rf"feel(?:s)? {_VERY}(?:{_GOOD}|comfortable|solid|sturdy|smooth)",
    "fit": rf"fit(?:s)? {_VERY}(?:{_WELL}|snug(?:ly)?|like a glove)",
    "build": r"(?:well|solidly|ruggedly|nicely) (?:made|built|constructed|put together)|well-made|"
    r"well-built|built like a tank|built to last|indestructible|bullet ?proof|sturdy|sturdily|"
    r"rugged|heavy[- ]duty",
    "durability": rf"(?:holds?|held) up {_VERY}(?:{_WELL}|over time)|long[- ]lasting|durable|"
    r"last(?:s|ed|ing)? (?:me )?(?:a )?(?:very |pretty |quite |really )?"
    r"(?:long(?: time)?|forever|for years|much longer|as long)",
    "value": r"well worth|worth (?:the (?:money|price)|every (?:penny|cent|dollar)|it)\b|"
    r"bang for (?:the|your|my) buck|(?:great|good|excellent|amazing) value",
    "price": r"(?:great|good|excellent|unbeatable|reasonable|fair|low|right|decent|nice|best|"
    r"fantastic|awesome|amazing) price|affordable|inexpensive|reasonably priced|well priced|"
    r"(?:can'?t|cannot|can not) (?:be )?beat(?:en)? (?:it |that )?(?:for )?(?:the|this) price",
    "comfort": r"comfortable|comfortably|comfy",
    "accuracy": r"accurate|accurately|precise|spot[- ]on|dead[- ]on",
    "reliability": r"reliable|reliably|dependable",
    "versatility": r"versatile",
    "portability": r"portable|lightweight|compact|easy to carry",
    "taste": rf"tast(?:es|ed) {_VERY}{_GOOD}|delicious|tasty|flavou?rful|yummy",
    "service": r"(?:friendly|attentive|courteous|helpful|great|excellent) (?:staff|service|"
    r"servers?|waiters?|waitress(?:es)?|employees)",
    "story": r"page[- ]turner|could ?n'?t put (?:it|this|the book) down|kept me (?:hooked|reading|"
    r"guessing)|gripping",
}
_WRITTEN = {"ease_of_use": "ease of use"}
_SHOWS_OPINION = frozenset({"sound", "quality", "look", "feel", "fit", "build", "price"})
_CHEAP = frozenset({"affordable", "inexpensive", "reasonably priced"})
# A pattern is looked for only in texts that hold one of these, which is ten times as fast.
_TRIGGERS: dict[str, tuple[str, ...]] = {
    "ease_of_use": (
        "easy",
        "easier",
        "simple",
        "simpler",
        "breeze",
        "snap",
        "cinch",
        "friendly",
    ),
    "performance": ("work", "perform", "does ", "job done"),
    "sound": ("sound",),
    "quality": ("quality",),
    "look": ("look", "attractive", "stylish"),
    "feel": ("feel",),
    "fit": ("fit",),
    "build": (
        "made",
        "built",
        "constructed",
        "put together",
        "sturd",
        "rugged",
        "duty",
        "tructible",
        "proof",
    ),
    "durability": ("hold", "held", "last", "durable"),
    "value": ("worth", "bang", "value"),
    "price": ("price", "affordable", "inexpensive"),
    "comfort": ("comf",),
    "accuracy": ("accurate", "precise", "spot", "dead"),
    "reliability": ("reliabl", "dependable"),
    "versatility": ("versatile",),
    "portability": ("portable", "lightweight", "compact", "carry"),
    "taste": ("tast", "delicious", "flav", "yummy"),
    "service": ("staff", "service", "server", "waiter", "waitress", "employees"),
    "story": ("page", "put ", "kept me", "gripping"),
}
_COMPILED = [
    (name, _TRIGGERS[name], re.compile(rf"\b(?:{pattern})(?![\w-])"))
    for name, pattern in _PATTERNS.items()
]
_NEGATION = "|".join(sorted(word for word in NEGATIONS if "'" not in word))
_DENIES = re.compile(
    rf"(?:n't|\b(?:{_NEGATION}|less|if(?! anything)|wish|far from|anything but|used to be|"
    r"fail(?:s|ed)? to|stop(?:s|ped)?))(?: (?!but |yet |though )\w+){0,2} $"
)
# "It could be more durable" asks for it; "it is more durable than my old one" praises.
_ASKS_FOR_MORE = re.compile(
    r"\b(?:could|should|may|might|would(?! say| recommend)|wish|wished|if(?! anything)|expect|"
    r"expected|prefer|consider)(?: (?!but )\w+){1,5} more (?:\w+ and )?$"
    r"|\bspend more(?: (?!but )\w+){1,2} $"
)
_PRAISES = re.compile(
    r"\bnot (?:only|just|merely|to mention)(?: \w+){0,2} $"
    r"|\b(?:no|zero|without)(?: any| a)? (?:doubt|question|problem|issue|complaint|trouble)s?"
    r"(?: \w+)? $"
    r"|(?:n't|\bnot|\bcannot|\bcant) (?:be|get|ask for|find)(?: \w+)? more (?:\w+ )?$"
    r"|(?:\bcan't|\bcannot|\bcan not|\bcant|\bcouldn't) (?:beat|fault|complain about)(?: \w+)? $"
)
_PRAISES_MORE = re.compile(r"(?:n't|\bnot|\bcannot|\bcant) (?:be|get)(?: any| much)? $")
_MORE = ("easier", "simpler")
_LOOK_BACK = 40
ATTRIBUTES = frozenset(_WRITTEN.get(name, name) for name in _PATTERNS)


@dataclass(frozen=True)
class Attribute:
    """An aspect that a turn of phrase stands for: those words, and an adjective to show before it.

    is_denied: whether the words before turn it around, as in "not easy to use".
    """

    aspect: str
    words: str
    shown: str
    is_denied: bool


def attributes(text: str) -> list[Attribute]:
    """What a text praises without naming it, in its order."""
    text = text.lower().replace("\u2019", "'")
    matches = [
        (match.start(), name, match.group())
        for name, triggers, pattern in _COMPILED
        if any(trigger in text for trigger in triggers)
        for match in pattern.finditer(text)
    ]
    found = []
    for start, name, words in sorted(matches):
        first, last = words.split(" ")[0], words.split(" ")[-1]
        adjective = first if name in ("build", "price", "quality") else last
        if name == "sound" and last.endswith("sounding"):
            adjective = first
        if words in _CHEAP:
            adjective = "low"
        is_shown = adjective == "low" or (name in _SHOWS_OPINION and describes(adjective))
        shown = adjective if is_shown else ""
        before = text[max(0, start - _LOOK_BACK) : start]
        is_denied = _is_denied(before, words)
        found.append(Attribute(_WRITTEN.get(name, name), words, shown, is_denied))
    return found


def _is_denied(before: str, words: str) -> bool:
    """Whether the text before turns the words around. Of "couldn't be easier to use" it does not:

    what cannot be more so is praised, and so is what is "not only" so.
    """
    if _PRAISES.search(before) or (words.startswith(_MORE) and _PRAISES_MORE.search(before)):
        return False
    return bool(_DENIES.search(before) or _ASKS_FOR_MORE.search(before))
