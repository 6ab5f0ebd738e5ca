"""`xrec train-aspects`: which aspects of an item to name to a user."""

from typing import Literal

from pydantic import Field

from xrec.config.shared import DatasetJobConfig, artifact_uri

Sentiment = Literal["all", "positive", "not_negative"]


class TrainAspectsConfig(DatasetJobConfig):
    """`xrec train-aspects`: dataset with aspects in, a score of aspects out."""

    aspects: str | None = artifact_uri("aspects")
    sentiment: Sentiment = Field(
        "not_negative",
        description="Which mentions of an aspect count: all, the positive ones, or all but the "
        "negative ones.",
    )
    personal_weight: float = Field(
        1.0,
        ge=0,
        description="Weight of the margin of NDCG@10 over other users in the place of the pair's, "
        "where NDCG@10 itself has weight 1. 0 trains for NDCG alone.",
    )
    min_item_reviews: int = Field(
        1,
        ge=1,
        description="Least number of an item's reviews that must mention an aspect that is chosen; "
        "1 if the aspects are those of profiles.",
    )
    only_praised: bool = Field(
        True,
        description="Whether only aspects are chosen that more of the item's reviews praise than "
        "blame. What they only speak of is no reason to enjoy it.",
    )
    seed: int = Field(0, ge=0, description="Seed of the vectors and of the other users.")
