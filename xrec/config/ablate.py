"""`xrec ablate`: what each part of the method is worth."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from xrec.config.comparison import ComparisonConfig
from xrec.config.contestants import ADAPTERS, Grouping
from xrec.config.shared import output_uri
from xrec.config.variants import OURS, WITHOUT_ASPECTS


class AblateConfig(ComparisonConfig):
    """`xrec ablate`: a comparison of ours with its variants, each trained on the same pairs.

    The variants are those of `xrec compare`. The references' likelihood is measured too.
    """

    makes: ClassVar[Literal["comparison", "ablation"]] = "ablation"
    ablation: str | None = output_uri("ablation")
    contestants: tuple[str, ...] = Field(
        tuple(name for name in ADAPTERS if name != WITHOUT_ASPECTS),
        min_length=2,
        description=f"ours, and the variants that are compared with it: {', '.join(ADAPTERS)}. "
        "without_aspects is for prompts with aspects.",
    )
    seeds: tuple[int, ...] = Field(
        (0,),
        min_length=1,
        description="Each variant is trained and writes once a seed. A verdict takes three.",
    )
    max_pairs: int | None = Field(
        200,
        ge=2,
        description="Number of the split's pairs that are explained and scored, drawn by a seeded "
        "hash. If null, all.",
    )
    groups: tuple[Grouping, ...] = Field(
        (), description="Figures are also given for these groups of users or items."
    )
    likelihood: bool = Field(
        True,
        description="Whether each variant also says how likely the references are, with the user's "
        "own vector and with another user's: two more passes over each pair.",
    )

    @model_validator(mode="after")
    def _variants_are_beside_ours(self) -> "AblateConfig":
        others = sorted(set(self.contestants) - set(ADAPTERS))
        if others or self.contestants[0] != OURS:
            raise ValueError(
                f"contestants: the first is {OURS}, and the others are its variants "
                f"({', '.join(ADAPTERS)}); saw {', '.join(self.contestants)}. Others are compared "
                "by xrec compare"
            )
        return self
