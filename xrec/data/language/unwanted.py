"""What no text may contain: personal data, orders to a language model, and calls to buy or click.

All three are found by their wording, so other wordings get through. Personal data is removed from
reviews before any text is generated from them, reviews that give orders are left out, and generated
texts are checked as well. No rule can tell people's names from brand names, so a name is only found
after words that introduce one ("my name is", "ask for").
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

import regex

from xrec.data.language.sentences import sentence_ends

_TLD = "com|org|net|edu|gov|biz|io|co|dev|uk|de|fr|eu|ca|au|nl"
_TLD_WORDS = "me|us|tv|store|online|shop|app|info"
_SITES = (
    "instagram|insta|twitter|facebook|snapchat|tiktok|telegram|whatsapp|youtube|soundcloud|"
    "discord|skype|reddit|twitch|kik|wechat"
)
_UNITS = r"k?hz|k?ohms?|watts?|volts?|mm|db|mah"
# Repeated parts are bounded and start at a word boundary; otherwise the time would grow with the
# square of the length of a text without spaces.
_EMAIL = r"(?<![\w.+-])[\w.+-]{1,64}\s?(?:@|\(at\)|\[at\])\s?[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"
# A capital after the dot starts a sentence after a missing space: "I love it.Me too".
_LINK = (
    r"\b(?:https?://|www\.)\S+"
    r"|(?<![\w-])-{0,3}[a-z0-9][a-z0-9-]{0,62}(?:\.[a-z0-9-]{1,63}){0,8}"
    rf"\.(?:{_TLD}|(?-i:{_TLD_WORDS}))\b(?:/\S*)?"
)
_PHONE = (
    r"(?<![\w$€£.,#-])(?:"
    r"\+\d{1,3}[\s.-]?(?:\(\d{1,4}\)\s?|\d{2,4}[\s.-])\d{3}[\s.-]?\d{3,4}"
    r"|(?:1[\s.-])?(?:\(\d{2,4}\)\s?|[2-9]\d{2}[\s.-])\d{3}[\s.-]?\d{4}"
    r"|0\d{3}[\s.-]\d{3}[\s.-]?\d{3,4}|0\d{2}[\s.-]\d{3}[\s.-]?\d{4}|0\d{1,2}[\s.-]\d{4}[\s.-]?\d{4}"
    r"|[5-9]\d{2}(?:\s\d{3}\s|-\d{3}-|\.\d{3}\.)\d{3}"
    rf")(?![\w-])(?!(?:[ ,]{{1,2}}\d{{1,6}}){{0,8}}\s?(?:{_UNITS})\b)"
    r"|(?<![\w$€£.,#-])\+\d{9,14}\b"
    r"|(?<=\bcall )\d{9,12}\b|(?<=\bphone )\d{9,12}\b|(?<=\btext )\d{9,12}\b"
)
_STREETS = (
    "Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Highway|Hwy|Parkway|Pkwy"
)
_ADDRESS = (
    rf"(?<![\w$.,#-])\d{{1,5}}[a-z]?\s(?:[NSEW]\.?\s)?(?-i:(?:[A-Z0-9][\w'.]{{0,20}}\s){{1,3}}"
    rf"(?:{_STREETS}))\b"
    r"|\b(?-i:[A-Z\u00c4\u00d6\u00dc][\w-]{1,30}(?:stra\u00dfe|strasse|str\.|gasse|allee)"
    r"|(?:[Rr]ue|[Cc]alle|[Vv]iale|[Cc]hemin)(?:\s[\w']{1,20}){1,4},?)\s\d{1,4}[a-z]?\b"
    r"|\b\d{1,4}[a-z]?,?\s(?:rue|chemin)(?:\s[\w']{1,20}){1,3}"
)
_NAME = (
    r"\b(?:my name is|my name's|ask(?:ed)? for|thanks? to|thank you,?|shout ?-?out to|kudos to|"
    r"served by|helped by|our (?:server|waiter|waitress|bartender|guide|stylist|technician|host)"
    r"(?:,| was)?)\s(?:Mr\.?\s|Mrs\.?\s|Ms\.?\s|Dr\.?\s)?"
    r"(?-i:(?!I\b)[A-Z][a-z\u00df-\u00ff]{1,20}(?:\s[A-Z](?:[a-z\u00df-\u00ff]{1,20}|\.))?)\b"
    r"|\b(?:ich hei\u00dfe|mein name ist|je m'appelle|me llamo|mi nombre es|mi chiamo)"
    r"(?-i:(?:\s[A-Z\u00c4\u00d6\u00dc][\w'-]{1,20}){1,3})"
)
# "YouTube is full of demos" is prose, but "my instagram is cool_guy.7" names an account.
_ACCOUNT = (
    r"(?<![\w@])@[A-Za-z_]\w{1,30}(?:\.\w+)*"
    rf"|\b(?:{_SITES})(?:\s+(?:handle|account|name|user(?:name)?|id))?\s*[:=]\s*@?[\w.]+"
    rf"|\b(?:{_SITES})\s+(?:handle|account|name|user(?:name)?|id)\s+is:?\s+@?[\w.]+"
    rf"|\b(?:{_SITES})\s+is:?\s+(?:@|(?=\w{{0,30}}[\d_]))[\w.]+(?<=\w)"
    r"|(?<![\w/])/?u/[A-Za-z0-9_-]{3,20}\b"
)
# Strings that are not for humans, such as base64.
_CODE = r"(?<![\w+/])[A-Za-z0-9+/]{40,}={0,2}"
_KINDS: Mapping[str, tuple[str, re.Pattern[str]]] = {
    kind: (pattern, re.compile(sign))
    for kind, pattern, sign in (
        ("email", _EMAIL, r"@|\(at\)|\[at\]"),
        ("link", _LINK, r"://|\.[a-z]"),
        ("phone", _PHONE, r"\d"),
        ("account", _ACCOUNT, rf"@|u/|{_SITES}"),
        ("address", _ADDRESS, r"\d"),
        ("name", _NAME, r"name|ask|thank|shout|kudos|ed by|our |ich hei|je m'|llamo|nombre|mi ch"),
        ("code", _CODE, r"[a-z0-9+/]{40}"),
    )
}
"""How each kind is found, and a lowercase pattern that every text with that kind matches."""
_ORDERS = regex.compile(
    # "Ignore your instructions", in several languages.
    r"\b(?:ignore|disregard|forget|override|bypass)\b[^.!?]{0,30}\b(?:previous|prior|above|earlier|"
    r"your|system|all)\b[^.!?]{0,20}\b(?:instructions?|prompts?|rules|guidelines)\b"
    r"|\b(?:ignorier\w*|vergiss|vergessen sie)\b[^.!?]{0,40}\banweisung(?:en)?\b"
    r"|\b(?:ignora|ignore|olvida|esqueça)\b[^.!?]{0,40}\b(?:instrucciones|instruções|istruzioni)\b"
    r"|\b(?:ignore[rz]?|oublie[rz]?)\b (?:les|toutes|tes|vos)\b[^.!?]{0,40}\b(?:instructions|"
    r"consignes)\b|\bnegeer\b[^.!?]{0,40}\binstructies\b"
    r"|\b(?:игнорир|забуд)\w*[^.!?]{0,40}\b(?:инструкц|указани)"
    r"|(?:忽略|无视|無視|忘记).{0,20}(?:指令|指示|提示)|(?:指示|命令)を.{0,10}無視"
    # Addressing the model.
    r"|\b(?:reveal|print|repeat|show|new|your)\b.{0,20}\b(?:system|developer) (?:prompt|message)\b"
    r"|\byou are (?:now )?(?:an?|the) (?:AI|assistant|chatbot)\b"
    r"|\bas (?:an AI(?: language model)?|the assistant),"
    r"|\b(?:dear|hey|attention|note to|message (?:to|for)|instructions? (?:to|for))\b[^.!?]{0,20}"
    r"\b(?:AI|assistant|language model|LLM|chatbot|recommender|summari[sz]er)\b"
    # Strings that only occur in a chat or in a model's reply.
    r"|<\|.{1,40}\|>|</?(?:think|start_of_turn|end_of_turn|system|assistant|instructions?)>"
    r"|\[/?(?:INST|SYSTEM_PROMPT)\]|<</?SYS>>|(?:^|[.!?\]}>*#-]\s*)(?:system|assistant)\s*:"
    r"|#{2,}\s*(?:system|instructions?|response|assistant)"
    r"|\"(?:role|content|profile|explanation|aspects?|opinion|sentiment)\"\s*:"
    r"|\b(?:new|real|updated) (?:task|instructions?)\s*:"
    r"|\b(?:write|say|mention|put|repeat|include)\b[^.!?]{0,60}\b(?:in|into|for) (?:the|your|every|"
    r"each|all) (?:\w+ )?(?:profiles?|explanations?|summar(?:y|ies)|repl(?:y|ies)|output)\b",
    regex.IGNORECASE,
)
_CALLS = regex.compile(
    r"\b(?:click|tap) (?:here|below|(?:on )?the link)\b"
    r"|\b(?:buy|order|shop|book|subscribe|sign up|register|download|call|act)(?: it| yours)? "
    r"(?:now|today)\b"
    r"|\b(?:call|e-?mail|contact|text|message|follow|dm) us\b|\b(?:contact|follow|dm) me\b"
    r"|\b(?:promo|discount|coupon|voucher|referral)[ -]?codes?\b|\buse (?:the |my )?code\b",
    regex.IGNORECASE,
)
REMOVED = "[\u2026]"
"""Marks where something was removed from a review, so that no quote spans the gap."""


def is_personal(text: str) -> bool:
    """Return whether a text contains personal data, or the mark of removed data."""
    return REMOVED in text or _pattern(_possible_kinds(text)).search(text) is not None


def remove_personal(text: str, mark: str = REMOVED) -> tuple[str, Counter[str]]:
    """Return the text with personal data replaced by `mark`, and the number of matches by kind.

    Kinds are email, link, phone, account, address (street), name, and code (such as base64).
    If there is none, the count is empty and the text is returned unchanged.
    """
    pattern = _pattern(_possible_kinds(text))
    found: Counter[str] = Counter(str(match.lastgroup) for match in pattern.finditer(text))
    if not found:
        return text, found
    return " ".join(pattern.sub(mark, text).split()), found


def _possible_kinds(text: str) -> tuple[str, ...]:
    """Return the kinds that a text may contain; searching for all of them is ten times slower.

    Dotless and dotted i are replaced, because IGNORECASE treats them as i.
    """
    small = text.casefold().replace("\u0131", "i").replace("i\u0307", "i")
    return tuple(kind for kind, (_, sign) in _KINDS.items() if sign.search(small))


@cache
def _pattern(kinds: tuple[str, ...]) -> re.Pattern[str]:
    """Return one pattern for all kinds, to scan a text once; the first kind that matches wins."""
    parts = (f"(?P<{kind}>{_KINDS[kind][0]})" for kind in kinds)
    return re.compile("|".join(parts) or "(?!)", re.IGNORECASE)


def gives_orders(text: str) -> bool:
    """Return whether a review addresses the language model that will read it."""
    return _ORDERS.search(unicodedata.normalize("NFKC", text)) is not None


def solicits(text: str, titles: Sequence[str] = ()) -> bool:
    """Return whether a text, apart from `titles`, has personal data or calls to buy or click."""
    for title in filter(None, titles):
        text = text.replace(title, " ")
    return is_personal(text) or _CALLS.search(text) is not None


def without_solicitation(text: str, titles: Sequence[str]) -> tuple[str, int]:
    """Return the text without sentences that solicit, and the number of those sentences."""
    starts = [0, *sentence_ends(text)]
    parts = [text[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]
    kept = [part for part in parts if not solicits(part, titles)]
    return "".join(kept).strip(), len(parts) - len(kept)
