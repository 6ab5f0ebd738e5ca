"""Which id was probably meant: for a person at the command line only, since the search may take a tenth of a second."""

import difflib
import itertools
from collections.abc import Iterable

_MAX_IDS_SEARCHED = 20_000


def suggest_id(wanted: str, known: Iterable[str]) -> str:
    """A half-sentence for an error message: the closest of the first 20,000 `known` ids, or an example if none is close."""
    searched = list(itertools.islice(known, _MAX_IDS_SEARCHED))
    close = difflib.get_close_matches(wanted, searched, n=1, cutoff=0.75)
    return f"did you mean {close[0]!r}?" if close else f"an id that it holds: {searched[0]!r}"
