"""What a judge is to answer."""

from functools import lru_cache
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    create_model,
    field_validator,
    model_validator,
)

MOST_STATEMENTS = 20
_MOST_CHARACTERS = 400


class _Reply(BaseModel):
    """A reply may have further fields, which are ignored."""

    model_config = ConfigDict(extra="ignore")


class ScoreReply(_Reply):
    """A score from 0 to 100."""

    score: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_bare_number(cls, value: Any) -> Any:
        return {"score": value} if _is_number(value) else value

    @field_validator("score", mode="before")
    @classmethod
    def _is_no_yes(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("expected a number, saw a yes or no")
        return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


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
