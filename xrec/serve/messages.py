"""What goes in and out over HTTP, as OpenAPI shows it."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from xrec.serve.live import LivePair, Signal
from xrec.serve.problems import Problem

MAX_PAIRS = 64
MAX_WORDS = 500

UserId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=256,
        description="user_id, as in the dataset.",
        examples=["resident-17"],
    ),
]
ItemId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=256,
        description="item_id, as in the dataset.",
        examples=["place-3"],
    ),
]
Text = Annotated[str, Field(max_length=8000)]
MaxWords = Annotated[
    int | None,
    Field(
        ge=1,
        le=MAX_WORDS,
        description="At most so many words, in whole sentences; none, or more than decoding.text.max_words: that.",
    ),
]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ProfileOverrides(_Message):
    """Texts in place of the dataset's, for this request only."""

    user_profile: Text | None = Field(None, description="What is said of the user.")
    item_title: Text | None = Field(None, description="The item's title.")
    item_profile: Text | None = Field(None, description="What is said of the item.")


class PairRequest(_Message):
    """A pair to explain."""

    user_id: UserId
    item_id: ItemId
    history: list[ItemId] = Field(
        [],
        max_length=1000,
        description="Of a user that the dataset does not know: item_ids that it interacted with.",
    )
    profiles: ProfileOverrides | None = Field(
        None, description="Other texts than the dataset's; what is made of them is not kept."
    )
    collaborative: Signal = Field(
        "full",
        description="full: as trained; prompt_only: injection off, the vectors in the prompt alone; none: no vectors, text alone.",
    )

    fresh: bool = Field(
        False, description="Generate it even if the backfill has it, or it was generated before."
    )

    @property
    def is_plain(self) -> bool:
        """What a backfill may hold: no texts, no history and no signal of its own."""
        return not self.history and self.profiles is None and self.collaborative == "full"

    def live(self) -> LivePair:
        """As the model takes it."""
        overrides = self.profiles.model_dump() if self.profiles else {}
        return LivePair(
            self.user_id, self.item_id, tuple(self.history), signal=self.collaborative, **overrides
        )


class ExplanationsRequest(_Message):
    """One to 64 pairs, answered together."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"pairs": [{"user_id": "resident-17", "item_id": "place-3"}]},
                {
                    "pairs": [
                        {
                            "user_id": "newcomer",
                            "item_id": "place-3",
                            "history": ["place-8", "place-20"],
                            "profiles": {"user_profile": "Likes tea."},
                        }
                    ],
                    "max_words": 30,
                },
            ]
        }
    )

    pairs: list[PairRequest] = Field(min_length=1, max_length=MAX_PAIRS, description="The pairs.")
    max_words: MaxWords = None


class Explanation(BaseModel):
    """Why this user would like this item."""

    user_id: str
    item_id: str
    explanation: str = Field(
        description="The text.", examples=["You would enjoy this place for its quiet garden."]
    )
    source: Literal["backfill", "live"] = Field(
        description="backfill: it was there; live: generated for this request, or for an earlier one."
    )
    is_cached: bool = Field(description="True if it was generated for an earlier request.")
    model_fingerprint: str = Field(
        description="Identifies language model, adapter and graph together."
    )
    num_generated_tokens: int
    finish_reason: str = Field(
        description="stop: it ended by itself; length: it was cut, and ends with its last whole sentence."
    )


class NoExplanation(BaseModel):
    """A pair that has none, and why."""

    user_id: str
    item_id: str
    problem: Problem


class Explanations(BaseModel):
    """One answer a pair, in the request's order."""

    explanations: list[Explanation | NoExplanation]


class RecommendedItem(BaseModel):
    """An item that the user has not seen, and why they would like it."""

    rank: int = Field(description="From 1.")
    score: float = Field(description="Dot product of the vectors.")
    item_id: str
    title: str
    answer: Explanation | NoExplanation | None = Field(
        description="None if explanations were not asked for."
    )


class Recommendations(BaseModel):
    """The best unseen items of a user."""

    user_id: str
    items: list[RecommendedItem]


class EvidenceRequest(_Message):
    """A pair, and the text that is to be weighed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "user_id": "resident-17",
                    "item_id": "place-3",
                    "explanation": "You would enjoy its quiet garden.",
                }
            ]
        }
    )

    user_id: UserId
    item_id: ItemId
    explanation: Text | None = Field(
        None, description="A text of this pair; none: likelihood is left out."
    )

    @model_validator(mode="after")
    def _text_is_not_blank(self) -> Self:
        if self.explanation is not None and not self.explanation.strip():
            raise ValueError("explanation must not be blank; leave it out")
        return self


class NearHistory(BaseModel):
    """An item of the user's history."""

    item_id: str
    title: str
    similarity: float = Field(description="Cosine of the two items' graph vectors, -1 to 1.")


class Likelihood(BaseModel):
    """How likely the text is with this user's vector, and with those of others, in the same prompt."""

    own_nll: float = Field(
        description="Mean negative log likelihood with the user's own vector, nats a token."
    )
    others_nll: list[float] = Field(
        description="The same with the vectors of other users, drawn once for each user."
    )
    gain: float = Field(
        description="Mean of others_nll minus own_nll: above 0, the text is this user's rather than anyone's."
    )


class Evidence(BaseModel):
    """What an explanation rests on."""

    user_id: str
    user_profile: str
    item_id: str
    item_title: str
    item_profile: str
    score: float = Field(description="Dot product of the vectors.")
    rank: int = Field(
        description="Rank of the item among those that the user has not seen, from 1."
    )
    num_ranked: int = Field(description="How many those are.")
    nearest_history: list[NearHistory] = Field(
        description="The items of the user's history that are nearest to the item, by graph similarity."
    )
    likelihood: Likelihood | None


class UserList(BaseModel):
    """Ids of users, in order."""

    users: list[str]


class ItemEntry(BaseModel):
    """An item's id and title."""

    item_id: str
    title: str


class ItemList(BaseModel):
    """Items."""

    items: list[ItemEntry]
