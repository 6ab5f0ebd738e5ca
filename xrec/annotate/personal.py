"""Personal data in texts: e-mail addresses, telephone numbers, links and account names.

They are removed from reviews before anything is written from them, and looked for in what was
written. Names of people are not found: no rule tells them from names of brands.
"""

import re
from collections import Counter

_TLD = "com|org|net|edu|gov|biz|io|co|dev|uk|de|fr|eu|ca|au|nl"
_TLD_WORDS = "me|us|tv|store|online|shop|app|info"
_SITES = (
    "instagram|insta|twitter|facebook|snapchat|tiktok|telegram|whatsapp|youtube|soundcloud|"
    "discord|skype|reddit|twitch|kik|wechat"
)
_UNITS = r"k?hz|k?ohms?|watts?|volts?|mm|db|mah"
# Parts that repeat are bounded and begin where a word does: the time must not grow with the square
# of the length of a text without blanks.
_EMAIL = r"(?<![\w.+-])[\w.+-]{1,64}\s?(?:@|\(at\)|\[at\])\s?[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}"
# A capital behind the dot begins a sentence where the blank is missing: "I love it.Me too".
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
# "YouTube is full of demos" is prose; "my instagram is cool_guy.7" is none.
_ACCOUNT = (
    r"(?<![\w@])@[A-Za-z_]\w{1,30}(?:\.\w+)*"
    rf"|\b(?:{_SITES})(?:\s+(?:handle|account|name|user(?:name)?|id))?\s*[:=]\s*@?[\w.]+"
    rf"|\b(?:{_SITES})\s+(?:handle|account|name|user(?:name)?|id)\s+is:?\s+@?[\w.]+"
    rf"|\b(?:{_SITES})\s+is:?\s+(?:@|(?=\w{{0,30}}[\d_]))[\w.]+(?<=\w)"
    r"|(?<![\w/])/?u/[A-Za-z0-9_-]{3,20}\b"
)
# One pattern, so that a text is read once. The first kind that fits a place counts.
_PERSONAL = re.compile(
    f"(?P<email>{_EMAIL})|(?P<link>{_LINK})|(?P<phone>{_PHONE})|(?P<account>{_ACCOUNT})",
    re.IGNORECASE,
)
_MAY_BE = re.compile(
    rf"@|\(at\)|\[at\]|\.(?:{_TLD}|{_TLD_WORDS})\b|://|www\.|\d{{3}}|(?:{_SITES})|\bu/", re.I
)


def remove_personal(text: str) -> tuple[str, Counter[str]]:
    """The text without personal data, and how many places of each kind were removed.

    Kinds are email, link, phone and account.

    The count is empty, and the text the same object, if there is none.
    """
    if not _MAY_BE.search(text):
        return text, Counter()
    found: Counter[str] = Counter(str(match.lastgroup) for match in _PERSONAL.finditer(text))
    if not found:
        return text, found
    cleaned = _PERSONAL.sub("", text)
    cleaned = re.sub(r"\(\s*\)|\[\s*\]", "", cleaned)
    cleaned = re.sub(r"[ \t]{2,}", " ", cleaned)
    return re.sub(r"(?<!\s)\s+([.,;:!?])", r"\1", cleaned).strip(), found
