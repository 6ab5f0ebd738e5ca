"""Which id was probably meant.

For the command line only, since the search may take a tenth of a second.
"""

import difflib
import itertools
from collections.abc import Iterable

_MAX_IDS_SEARCHED = 20_000


def suggest_id(wanted: str, known: Iterable[str]) -> str:
    """The end of an error message: the `known` id that is closest to `wanted`, or an example.

    Only the first 20,000 ids are searched.
    """
    searched = list(itertools.islice(known, _MAX_IDS_SEARCHED))
    close = difflib.get_close_matches(wanted, searched, n=1, cutoff=0.75)
    return f"did you mean {close[0]!r}?" if close else f"an id that it holds: {searched[0]!r}"
