"""The best items for each user among the eligible ones that the user has not seen.

    artifact    what `xrec recommend` writes: one row per recommended pair, in parts by user
    eligible    which items may be recommended to whom
    ranking     the run, and how a process ranks the users of a part

The pairs are only published together with their explanations (`xrec.backfill`). Only `ranking`,
which is not imported here, needs torch and Ray.
"""

from xrec.recommend.artifact import identify, read_recommendations

__all__ = ["identify", "read_recommendations"]
