"""The best items of each user among those that they may get and have not seen.

    artifact    what `xrec recommend` writes: a row per recommended pair, in parts of some users
    eligible    which items may be recommended to whom
    ranking     what a process does with a part; the run

The pairs become public with their explanations only (`xrec.backfill`). Only `ranking`, which is not
imported here, needs torch and Ray.
"""

from xrec.recommend.artifact import identify, read_recommendations

__all__ = ["identify", "read_recommendations"]
