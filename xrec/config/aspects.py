"""`xrec train-aspects`: which aspects of an item to name to a user."""

from pydantic import Field

from xrec.config.shared import DatasetJobConfig, artifact_uri


class TrainAspectsConfig(DatasetJobConfig):
    """`xrec train-aspects`: dataset with aspects in, a score of aspects out."""

    aspects: str | None = artifact_uri("aspects")
    min_item_reviews: int = Field(1, ge=1)
    """Least number of an item's reviews that must mention an aspect that is chosen; 1 if the
    aspects are those of profiles."""
