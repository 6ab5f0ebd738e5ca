"""`xrec train-aspects`: which aspects of an item to name to a user."""

from pydantic import Field

from xrec.config.shared import JobConfig, input_uri, output_uri


class TrainAspectsConfig(JobConfig):
    """`xrec train-aspects`: dataset with aspects in, a score of aspects out."""

    dataset: str | None = input_uri("dataset")
    aspects: str | None = output_uri("aspects")
    min_item_reviews: int = Field(
        1,
        ge=1,
        description="Least number of an item's reviews that must mention an aspect that is chosen; "
        "1 if the aspects are those of profiles.",
    )
