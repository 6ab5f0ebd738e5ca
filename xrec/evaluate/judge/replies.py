"""What a judge is to answer."""

from functools import lru_cache
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, create_model

MOST_STATEMENTS = 20
_MOST_CHARACTERS = 400


class _Reply(BaseModel):
    """A reply may have further fields, which are ignored."""

    model_config = ConfigDict(extra="ignore")


class ScoreReply(_Reply):
    """A score from 0 to 100."""

    score: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class StatementsReply(_Reply):
    """The statements of a text."""

    statements: Annotated[
        list[Annotated[str, Field(max_length=_MOST_CHARACTERS)]],
        Field(max_length=MOST_STATEMENTS),
    ]


class SupportReply(_Reply):
    """Whether each statement is supported."""

    supported: list[bool]


@lru_cache(maxsize=MOST_STATEMENTS)
def support_schema(num_statements: int) -> type[SupportReply]:
    """A reply with an answer for each of so many statements, no more and no fewer."""
    answers = Annotated[list[bool], Field(min_length=num_statements, max_length=num_statements)]
    return create_model(
        f"SupportOf{num_statements}Reply", __base__=SupportReply, supported=(answers, ...)
    )
