"""Who takes part in a comparison: adapters, baselines, copies, and texts from elsewhere."""

from typing import Literal, get_args

from pydantic import field_validator

from xrec.config.base import Config
from xrec.config.data import TABLE_ENDINGS
from xrec.config.prompt import PromptConfig

BaselineKind = Literal["peter", "lora"]
WITHOUT_ASPECTS = "without_aspects"
ADAPTERS = (
    "ours",
    "without_profile",
    "without_injection",
    "without_both",
    WITHOUT_ASPECTS,
    "random_vectors",
    "constant",
)
"""Ours and its variants."""
BASELINES: tuple[BaselineKind, ...] = get_args(BaselineKind)
ENTRIES = (*ADAPTERS, *BASELINES, "zero_shot", "profile", "nearest")
RANKERS = ("item_popularity", "user_popularity", "global_popularity", "random", "chooser")
"""What ranks statements without a text, below the entries of a table (docs/metrics.md)."""
MODEL_CHANGES: dict[str, dict[str, str]] = {
    "without_injection": {"injection": "none"},
    "without_both": {"injection": "none"},
    "random_vectors": {"vectors": "random"},
    "constant": {"vectors": "constant"},
}
"""What the adapters of variants have in place of ours."""


class ElsewhereConfig(Config):
    """Texts that were made elsewhere: a table with a text for each of some pairs."""

    uri: str
    """A .parquet, .csv, .tsv, .jsonl or .json file; all but the first also gzipped."""
    user_id: str = "user_id"
    """The file's column of user ids."""
    item_id: str = "item_id"
    """The file's column of item ids."""
    text: str = "explanation"
    """The file's column of texts."""

    @field_validator("uri")
    @classmethod
    def _file_can_be_read(cls, uri: str) -> str:
        if not uri.lower().endswith(TABLE_ENDINGS):
            raise ValueError(f"expected a file that ends in one of {', '.join(TABLE_ENDINGS)}")
        return uri


def prompt_of(variant: str, full: PromptConfig) -> PromptConfig:
    """The prompt of a variant; without profiles it has no aspects either, and keeps the title."""
    if variant in ("without_profile", "without_both"):
        parts = {
            "user": full.user.replace("{user_profile}", "").rstrip(),
            "item": full.item.replace("{item_profile}", "").rstrip(),
        }
        return PromptConfig.model_validate({**full.model_dump(), **parts, "aspects": 0})
    return full.model_copy(update={"aspects": 0}) if variant == WITHOUT_ASPECTS else full
