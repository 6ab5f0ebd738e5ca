"""Who takes part in a comparison, what they may learn from, and what people are asked."""

import re
from typing import Any, Literal, get_args

from pydantic import Field, field_validator

from xrec.config.base import Config
from xrec.config.baselines import BaselineKind
from xrec.config.data import TABLE_ENDINGS, Delimiter

AdapterContestant = Literal[
    "ours",
    "without_profile",
    "without_injection",
    "without_both",
    "without_aspects",
    "random_vectors",
    "constant",
]
Grouping = Literal[
    "user_explanations", "item_explanations", "user_interactions", "item_interactions"
]
"""Users or items, by their number of training explanations or training interactions."""
ADAPTERS: tuple[str, ...] = get_args(AdapterContestant)
BASELINES: tuple[BaselineKind, ...] = get_args(BaselineKind)
CONTESTANTS = (*ADAPTERS, *BASELINES, "zero_shot", "profile", "nearest")
_QUESTION = re.compile(r"[a-z0-9_]+")


class ElsewhereConfig(Config):
    """Texts that were made elsewhere: a table with a text for each of some pairs."""

    uri: str = Field(
        description="A Parquet, CSV or JSON Lines file (.parquet, .csv, .tsv, .jsonl, .json; the "
        "last four may be gzipped)."
    )
    user_id: str = Field("user_id", description="The file's column of user ids.")
    item_id: str = Field("item_id", description="The file's column of item ids.")
    text: str = Field("explanation", description="The file's column of texts.")
    delimiter: Delimiter = Field(",", description="What separates the columns in CSV files.")

    @field_validator("uri")
    @classmethod
    def _file_can_be_read(cls, uri: str) -> str:
        if not uri.lower().endswith(TABLE_ENDINGS):
            raise ValueError(f"expected a file that ends in one of {', '.join(TABLE_ENDINGS)}")
        return uri


class BudgetConfig(Config):
    """What each contestant that is trained may learn from, the same for all."""

    max_pairs: int | None = Field(
        None,
        ge=1,
        description="Number of training pairs, the same ones for all contestants and seeds. If "
        "null, training.max_pairs.",
    )
    num_epochs: int | None = Field(
        None,
        ge=1,
        description="Largest number of passes over them, in each phase of a training that has "
        "several (pepler). If null, it is that of each contestant's own section.",
    )


class BlindSheetConfig(Config):
    """A page on which people judge texts without knowing whose they are."""

    num_pairs: int = Field(
        0, ge=0, description="Number of pairs on the page. With 0 there is no page."
    )
    questions: dict[str, str] = Field(
        default_factory=lambda: {
            "true": "Is what it says about the item true?",
            "personal": "Is it about this user, and not about anybody?",
            "convincing": "Would it convince you?",
        },
        min_length=1,
        description="The questions about each text, by a short name; they are answered from 1 (no) "
        "to 5 (yes).",
    )
    answers: tuple[str, ...] = Field(
        (),
        description="URIs of the files of answers that people saved. If there are any, they are "
        "read, and people.md says who won.",
    )

    @field_validator("questions")
    @classmethod
    def _names_are_keys(cls, questions: dict[str, str]) -> dict[str, str]:
        for name in questions:
            if not _QUESTION.fullmatch(name) or name in ("pair", "place"):
                raise ValueError(
                    f"{name!r} cannot be a question's short name: small letters, digits and _ are, "
                    "but for pair and place"
                )
        return questions

    @field_validator("answers", mode="before")
    @classmethod
    def _one_file_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value
