"""How far judges agree: Krippendorff's alpha of ordinal ratings (Krippendorff 2004).

1 if judges always agree, 0 if no more than by chance.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def agreement(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Krippendorff's alpha of ratings of one question; None without a text that two people rated.

    1 if all ratings are the same one: nothing was there to disagree on.
    """
    import krippendorff  # an extra, which `check_packages` asks for

    judges = {name: place for place, name in enumerate(sorted({row["judge"] for row in rows}))}
    texts = {key: place for place, key in enumerate(dict.fromkeys(map(text_of, rows)))}
    given = np.full((len(judges), len(texts)), np.nan)
    for row in rows:
        given[judges[row["judge"]], texts[text_of(row)]] = row["rating"]
    rated_twice = given[:, (~np.isnan(given)).sum(axis=0) > 1]
    values = rated_twice[~np.isnan(rated_twice)]
    if not values.size:
        return None
    if len(np.unique(values)) == 1:
        return 1.0
    return float(krippendorff.alpha(reliability_data=given, level_of_measurement="ordinal"))


def text_of(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """The user, item and contestant whose text a row of RATINGS is about."""
    return row["user_id"], row["item_id"], row["contestant"]
