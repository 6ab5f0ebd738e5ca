"""Personal data in texts: e-mail addresses, telephone numbers, links and account names.

They are removed from reviews before anything is written from them, and looked for in what was
written. Names of people are not found: no rule tells them from names of brands.
"""

import re
from collections import Counter
from typing import Literal, get_args

PersonalKind = Literal["email", "link", "phone", "account"]

_TLD = "com|org|net|edu|gov|info|biz|shop|store|online|io|co|me|tv|app|dev|uk|de|fr|eu|us|ca|au|nl"
_SITES = (
    "instagram|insta|twitter|facebook|snapchat|tiktok|telegram|whatsapp|youtube|soundcloud|"
    "discord|skype|reddit|twitch|kik|wechat"
)
# One pattern, so that a text is read once. The first kind that fits a place counts.
_PERSONAL = re.compile(
    r"(?P<email>[\w.+-]+\s?(?:@|\(at\)|\[at\])\s?[\w-]+(?:\.[\w-]+)+)"
    r"|(?P<link>\b(?:https?://|www\.)\S+"
    rf"|\b[a-z0-9][a-z0-9-]*(?:\.[a-z0-9-]+)*\.(?:{_TLD})\b(?:/\S*)?)"
    r"|(?P<phone>(?<![\w$€£.,#-])(?:\+\d{1,3}[\s.-]?)?(?:\(\d{2,4}\)\s?|\d{2,4}[\s.-])"
    r"\d{3}[\s.-]?\d{3,4}(?![\w-])|\+\d{9,14}\b"
    r"|(?<=\bcall )\d{9,12}\b|(?<=\bphone )\d{9,12}\b|(?<=\btext )\d{9,12}\b)"
    r"|(?P<account>(?<![\w@])@[A-Za-z_]\w{1,30}(?:\.\w+)*"
    rf"|(?<=\b)(?:{_SITES})(?:\s+(?:handle|account|name|user(?:name)?|id))?\s*(?:is|:|=)\s*@?[\w.]+"
    r"|(?<![\w/])/?u/[A-Za-z0-9_-]{3,20}\b)",
    re.IGNORECASE,
)
_MAY_BE = re.compile(rf"@|\(at\)|\[at\]|\.(?:{_TLD})\b|://|www\.|\d{{3}}|(?:{_SITES})|\bu/", re.I)
KINDS: tuple[PersonalKind, ...] = get_args(PersonalKind)


def remove_personal(text: str) -> tuple[str, Counter[str]]:
    """The text without personal data, and how many places of each kind were removed.

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
    return re.sub(r"\s+([.,;:!?])", r"\1", cleaned).strip(), found
