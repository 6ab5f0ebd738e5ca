"""The town itself: tastes, places, and visits that follow taste.

User u has a ranking of the aspects; the aspect at rank r has taste TASTE_DECAY^r, so the best of an
item's four aspects is unique. The utility of item i is the sum of u's taste over i's aspects,
and u visits the items with the largest utility / TEMPERATURE + Gumbel noise: draws from the softmax
of the utilities, without replacement.
"""

from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from xrec.config import SampleSource
from xrec.sample import texts

TASTE_DECAY = 0.6
TEMPERATURE = 0.3


@dataclass(frozen=True)
class Town:
    """U users, I items, A aspects (texts.ASPECTS), and V visits per user, X of them explained.

    taste: (U, A) float64, higher is better; a user's values are all different.
    item_aspects: (I, 4) int64, the aspects of each item.
    visits: (U, V) int64, item indices, distinct for each user; the first X are explained.
    best_aspects: (U, X) int64, the aspect that the explanation names.
    explanations: U * X texts, grouped by user.
    """

    taste: npt.NDArray[np.float64]
    item_aspects: npt.NDArray[np.int64]
    visits: npt.NDArray[np.int64]
    best_aspects: npt.NDArray[np.int64]
    user_profiles: list[str]
    item_titles: list[str]
    item_profiles: list[str]
    explanations: list[str]


def generate_town(source: SampleSource) -> Town:
    """Return the town of `source`, which depends only on its sizes."""
    rng = np.random.default_rng(0)
    text_rng = Random("town 0")
    taste = _draw_taste(source.num_users, rng)
    item_aspects = _draw_item_aspects(source.num_items, rng)
    visits = _draw_visits(taste, item_aspects, source.interactions_per_user, rng)
    explained = visits[:, : source.explanations_per_user]
    best_aspects = best_aspect(taste, item_aspects, explained)
    title_numbers = rng.permutation(max(source.num_items, texts.NUM_PLAIN_TITLES))[
        : source.num_items
    ]
    titles = [texts.item_title(int(number)) for number in title_numbers]
    return Town(
        taste=taste,
        item_aspects=item_aspects,
        visits=visits,
        best_aspects=best_aspects,
        user_profiles=[texts.user_profile(text_rng) for _ in range(source.num_users)],
        item_titles=titles,
        item_profiles=[texts.item_profile(_phrases(aspects), text_rng) for aspects in item_aspects],
        explanations=[
            texts.explanation(titles[item], texts.ASPECTS[aspect], text_rng)
            for item, aspect in zip(explained.ravel(), best_aspects.ravel(), strict=True)
        ],
    )


def best_aspect(
    taste: npt.NDArray[np.float64],
    item_aspects: npt.NDArray[np.int64],
    items: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Return, for each user and item, the one of the item's four aspects that the user likes most.

    taste (U, A), item_aspects (I, 4), items (U, X), where row u has item indices for user u ->
    (U, X) int64.
    """
    aspects = item_aspects[items]  # (U, X, 4)
    liking = np.take_along_axis(taste[:, None, :], aspects, axis=2)  # (U, X, 4)
    return np.take_along_axis(aspects, liking.argmax(axis=2)[..., None], axis=2)[..., 0]


def town_tables(town: Town) -> dict[str, pa.Table]:
    """Return the town as the raw tables of a dataset.

    Users are `resident-1` ..., items `place-1` .... Each visit counts as a review that mentions
    the one aspect that the user likes most.
    """
    user_ids = [f"resident-{number}" for number in range(1, len(town.user_profiles) + 1)]
    item_ids = [f"place-{number}" for number in range(1, len(town.item_titles) + 1)]
    items = town.visits[:, : town.best_aspects.shape[1]]
    interactions, explained = (_pairs(part, user_ids, item_ids) for part in (town.visits, items))
    best = best_aspect(town.taste, town.item_aspects, town.visits).ravel()
    return {
        "users": pa.table({"user_id": user_ids, "profile": town.user_profiles}),
        "items": pa.table(
            {"item_id": item_ids, "title": town.item_titles, "profile": town.item_profiles}
        ),
        "interactions": interactions,
        "explanations": explained.append_column("explanation", [town.explanations]),
        "planted": explained.drop_columns("split")
        .append_column("aspect", [_phrases(town.best_aspects.ravel())])
        .append_column("aspects", [[_phrases(row) for row in town.item_aspects[items.ravel()]]]),
        "aspects": interactions.append_column("aspect", [_phrases(best)])
        .append_column("opinion", pa.repeat("", best.size))
        .append_column("sentiment", pa.repeat("positive", best.size)),
    }


def _draw_taste(num_users: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    ranks = rng.permuted(np.tile(np.arange(len(texts.ASPECTS)), (num_users, 1)), axis=1)
    return TASTE_DECAY ** ranks.astype(np.float64)


def _draw_item_aspects(num_items: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    aspects = rng.permuted(np.tile(np.arange(len(texts.ASPECTS)), (num_items, 1)), axis=1)
    return aspects[:, : texts.ASPECTS_PER_ITEM]


def _draw_visits(
    taste: npt.NDArray[np.float64],
    item_aspects: npt.NDArray[np.int64],
    num_visits: int,
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    utility = taste[:, item_aspects].sum(axis=2)  # (U, I, 4) -> (U, I)
    noisy = utility / TEMPERATURE + rng.gumbel(size=utility.shape)
    best = np.argpartition(-noisy, num_visits - 1, axis=1)[:, :num_visits]
    return rng.permuted(best, axis=1)


def _phrases(aspects: npt.NDArray[np.int64]) -> list[str]:
    return [texts.ASPECTS[aspect] for aspect in aspects]


def _pairs(items: npt.NDArray[np.int64], user_ids: list[str], item_ids: list[str]) -> pa.Table:
    """Return one row per user (row of `items`) and item; a null split is decided by the hash."""
    return pa.table(
        {
            "user_id": np.repeat(user_ids, items.shape[1]),
            "item_id": np.array(item_ids)[items.ravel()],
            "split": pa.nulls(items.size, pa.string()),
        }
    )
