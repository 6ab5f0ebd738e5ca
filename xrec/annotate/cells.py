"""Parsers for the cells of a table of reviews; see xrec.data."""

import math
import re
from calendar import month_abbr
from contextlib import suppress
from datetime import UTC, date, datetime, time
from decimal import Decimal

import regex

from xrec.data import Parser, parse_text

# Control, zero-width, direction, tag and private-use characters. Joiners stay after non-ASCII.
_HIDDEN = regex.compile(
    r"[[\p{Cc}\p{Cf}\p{Co}\u3164\uffa0]--[\s\u200c\u200d]]|(?<=[ -~])[\u200c\u200d]", regex.V1
)
_WITH_MONTH = re.compile(rf"(?i)(?=.*({'|'.join(month_abbr[1:])}))(?=.*\b\d{{4}}\b)")
_DECIMAL_COMMA = re.compile(r"^(-?\d+),(\d\d?)$")


def parse_review(value: object) -> str:
    """Return a text on one line, without HTML entities, HTML tags and invisible characters."""
    return " ".join(_HIDDEN.sub("", parse_text(value)).split())


def rating_parser(least: float, greatest: float) -> Parser:
    """Return a parser of ratings that must be in a range; a missing rating becomes None."""

    def parse_rating(value: object) -> str | None:
        number = parse_number(value)
        if number is not None and not least <= number <= greatest:
            raise ValueError(f"must be from {least:g} to {greatest:g}")
        return None if number is None else repr(number)

    return parse_rating


def parse_votes(value: object) -> str | None:
    """Parse a number of votes, such as 3 or [3, 5] (3 of 5); return None if missing or invalid."""
    first = value[0] if isinstance(value, list | tuple) and value else value
    with suppress(ValueError):  # votes only order the reviews, so no row is rejected for them
        number = parse_number(first)
        return None if number is None else repr(number)
    return None


def parse_time(value: object) -> str | None:
    """Parse a number in any unit, or a date, which becomes seconds since 1970.

    A date must be in ISO 8601, or have an English month name and a four-digit year, because
    03/04/2010 is ambiguous. A date without a time is midnight UTC. The result for a missing value
    is None.
    """
    if isinstance(value, datetime):
        moment = value
    elif isinstance(value, date):
        moment = datetime.combine(value, time())
    elif isinstance(value, str) and not _is_number(value) and value.strip():
        try:
            moment = _moment(value.strip())
        except ValueError:
            raise ValueError("must be a number or a date such as 2026-11-26 14:43") from None
    else:
        number = parse_number(value)
        return None if number is None else repr(number)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return repr(moment.timestamp())


def _moment(text: str) -> datetime:
    if not _WITH_MONTH.match(text):
        return datetime.fromisoformat(text)
    import pandas as pd  # slow to import

    moment: datetime = pd.Timestamp(text).to_pydatetime()
    return moment


def parse_number(value: object) -> float | None:
    """Parse a number, which may have a decimal comma; return None if it is missing or NaN."""
    if isinstance(value, str):
        value = _DECIMAL_COMMA.sub(r"\1.\2", value.strip())
    if value is None or value == "":
        return None
    is_of_type = not isinstance(value, bool) and isinstance(value, str | int | float | Decimal)
    if not is_of_type or not _is_number(value):
        raise ValueError("must be a number")
    number = float(value)  # type: ignore[arg-type]
    return None if math.isnan(number) else number


def _is_number(value: object) -> bool:
    try:
        return not math.isinf(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False
