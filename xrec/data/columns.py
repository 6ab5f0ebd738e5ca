"""What a cell of an input table must be.

Each parser returns the value as xrec holds it, or raises ValueError with the reason.
"""

import math
from collections.abc import Callable
from datetime import date
from decimal import Decimal

SPLITS = ("train", "validation", "test")
MAX_INDEX = 2**31 - 1

Parser = Callable[[object], str | None]


def parse_id(value: object) -> str:
    """An id: any non-empty string, or an integer, as a string."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("must be a string or an integer")
    text = str(value)
    if not text:
        raise ValueError("must not be empty")
    return _valid_unicode(text)


def parse_dense_id(value: object) -> str:
    """An id of the public release: an integer from 0 on, as a string without leading zeros."""
    is_digits = isinstance(value, str) and value.strip().isascii() and value.strip().isdigit()
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    number = int(value) if is_digits or is_integer else -1  # type: ignore[call-overload]
    if not 0 <= number <= MAX_INDEX:
        raise ValueError(f"must be an integer from 0 to {MAX_INDEX}")
    return str(number)


def parse_text(value: object) -> str:
    """A text, stripped; a missing value is the empty text."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError("must be a text")
    return _valid_unicode(value).strip()


def parse_description(value: object) -> str:
    """A title or profile: as `parse_text`, with numbers and dates written out.

    The parts of a list are joined: "tea, cake".
    """
    if isinstance(value, list | tuple):
        return ", ".join(text for part in value if (text := parse_description(part)))
    if isinstance(value, float | Decimal) and math.isnan(value):
        return ""
    if isinstance(value, int | float | Decimal | date):
        return str(value)
    return parse_text(value)


def parse_split(value: object) -> str | None:
    """train, validation or test; None if it is missing, so that the pair's hash decides."""
    if value is None or value == "":
        return None
    if value not in SPLITS:
        raise ValueError(f"must be one of {', '.join(SPLITS)}")
    return str(value)


def parse_rating(value: object) -> str | None:
    """A rating as a string; None if it is missing, or no finite number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    try:
        rating = float(value)
    except ValueError:
        return None
    return str(rating) if math.isfinite(rating) else None


def _valid_unicode(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("must be valid UTF-8") from None
    return text
