"""The bodies of requests and answers; OpenAPI describes them from here."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator

from xrec.data import AspectsFrom, NamedEvidence

MAX_PAIRS = 64
MAX_WORDS = 500

_Id = Annotated[str, Field(min_length=1, max_length=256)]
UserId = Annotated[_Id, Field(description="user_id, as in the dataset.", examples=["resident-17"])]
ItemId = Annotated[_Id, Field(description="item_id, as in the dataset.", examples=["place-3"])]
Title = Annotated[str, Field(max_length=500)]
Text = Annotated[str, Field(max_length=8000)]
MaxWords = Annotated[
    int | None,
    Field(
        ge=1,
        le=MAX_WORDS,
        description="Most words of a text, which ends with a whole sentence. If null, or above "
        "decoding.text.max_words, that limit holds.",
    ),
]


class Problem(BaseModel):
    """An error (RFC 9457). `type` is stable and meant for programs, `detail` is for people."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "/problems/unknown_item",
                "title": "Not Found",
                "status": 404,
                "detail": "...",
            }
        }
    )

    type: str = Field(
        description="/problems/<reason>; a pair has the reasons of a backfill's failed rows, "
        "and some of its own."
    )
    title: str = Field(description="The status in words.")
    status: int = Field(
        description="HTTP status; for one pair of several, the status that it would have alone."
    )
    detail: str = Field(description="What is wrong, and what to do.")
    request_id: str | None = Field(
        None, description="The X-Request-ID of the answer, to find the request in the logs."
    )
    errors: list[dict[str, Any]] | None = Field(
        None,
        description="For a request that is not well-formed: the place of each error, and what was "
        "expected there.",
    )


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, data: Any) -> Any:
        """Refuse an object of many keys at once, since each would be an error of its own."""
        if isinstance(data, dict) and len(data) > len(cls.model_fields):
            raise ValueError(f"expected at most {len(cls.model_fields)} fields")
        return data


class _PairOf(_Message):
    user_id: UserId
    item_id: ItemId


class ProfileOverrides(_Message):
    """Texts that replace the dataset's in this request only."""

    user_profile: Text | None = Field(None, description="A description of the user.")
    item_title: Title | None = Field(None, description="The title of the item.")
    item_profile: Text | None = Field(None, description="A description of the item.")


class PairRequest(_PairOf):
    """A pair to explain."""

    history: Annotated[list[ItemId], FailFast()] = Field(
        [],
        max_length=250,
        description="For a user that the dataset does not know: item_ids that the user "
        "interacted with.",
    )
    profiles: ProfileOverrides | None = Field(
        None, description="Texts that replace the dataset's. The answer is not kept in memory."
    )
    fresh: bool = Field(
        False, description="If true, generate the text even if the backfill or memory has one."
    )

    @property
    def is_plain(self) -> bool:
        """True if a backfill may hold this pair: it has no own texts and no history."""
        return not self.history and self.profiles is None

    def without_stored_profile(self) -> "PairRequest":
        """Return the pair without the dataset's profile of the user, if it has texts of its own."""
        if not self.own_texts or "user_profile" in self.own_texts:
            return self
        profiles = ProfileOverrides(**self.own_texts, user_profile="")
        return self.model_copy(update={"profiles": profiles})

    @property
    def own_texts(self) -> dict[str, Any]:
        """The texts that replace the dataset's, by their names."""
        return self.profiles.model_dump(exclude_none=True) if self.profiles else {}


class ExplanationsRequest(_Message):
    """One to 64 pairs that are answered together."""

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

    pairs: Annotated[list[PairRequest], FailFast()] = Field(
        min_length=1, max_length=MAX_PAIRS, description="The pairs to explain."
    )
    max_words: MaxWords = None


Parts = Literal["checked", "unchecked"]


class StreamRequest(ExplanationsRequest):
    """One to 64 pairs that are answered one after the other, each in parts."""

    parts: Parts = Field(
        "checked",
        description="checked: a part is sent once it is whole sentences that pass all checks of "
        "decoding.text. unchecked: a part is sent as soon as it is written, and may be of a text "
        "that will be refused.",
    )


class Explanation(BaseModel):
    """Why this user would like this item."""

    user_id: str
    item_id: str
    explanation: str = Field(
        description="The text of the explanation.",
        examples=["You would enjoy this place for its quiet garden."],
    )
    source: Literal["backfill", "live"] = Field(
        description="backfill: the text comes from the backfill; live: it was generated for this "
        "request or an earlier one."
    )
    is_cached: bool = Field(description="True if it was generated for an earlier request.")
    model_fingerprint: str = Field(
        description="Fingerprint of language model, adapter and graph together."
    )
    num_generated_tokens: int = Field(description="Number of tokens that the model generated.")
    finish_reason: str = Field(
        description="stop: the model ended the text; length: the text was cut after its last "
        "whole sentence."
    )
    kind: str = Field(
        description="written: by the model; plain: a sentence made of the evidence, in place of a "
        "text that was refused. This, num_generated_tokens and finish_reason are those of the "
        "whole text if max_words cut it."
    )
    aspects: tuple[NamedEvidence, ...] = Field(
        description="The aspects that were chosen for the pair, the best first; none unless the "
        "adapter's prompt asks for them (prompt.aspects). item_reviews of the item's "
        "num_item_reviews training reviews have the aspect, and user_reviews of the user's "
        "num_user_reviews. opinion: words in which the item's reviews praise it, or empty. "
        "is_named: whether the text of this answer, which max_words may have cut, names it. On a "
        "dataset without reviews the item's profile is its only review, and the user's are the "
        "profiles of the items that they interacted with."
    )


class NoExplanation(BaseModel):
    """A pair that has no explanation, and the reason."""

    user_id: str
    item_id: str
    problem: Problem


class Explanations(BaseModel):
    """One answer for each pair, in the order of the request."""

    explanations: list[Explanation | NoExplanation]


class RecommendedItem(BaseModel):
    """An item that the user has not seen, and why they would like it."""

    rank: int = Field(description="Rank of the item, from 1.")
    score: float | None = Field(
        description="Score by the recommender: of xrec recommend, the dot product of the vectors."
    )
    item_id: str
    title: str
    answer: Explanation | NoExplanation | None = Field(
        description="The explanation; null if explanations were not asked for."
    )


class Recommendations(BaseModel):
    """The best unseen items of a user."""

    user_id: str
    items: list[RecommendedItem]


class EvidenceRequest(_PairOf):
    """A pair whose evidence is wanted."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user_id": "resident-17", "item_id": "place-3"}]}
    )


class ItemEntry(BaseModel):
    """An item's id and title."""

    item_id: str
    title: str


class NearHistory(ItemEntry):
    """An item of the user's history and its similarity to the pair's item."""

    similarity: float = Field(description="Cosine of the two items' graph vectors, -1 to 1.")


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
    num_ranked: int = Field(description="Number of items that are ranked.")
    nearest_history: list[NearHistory] = Field(
        description="The items of the user's history that are nearest to the item in the graph."
    )
    aspects_from: AspectsFrom | None = Field(
        description="What the figures of a chosen aspect count: reviews or, on a dataset without "
        "reviews, profiles; null if the dataset has no aspects."
    )


class _Page(BaseModel):
    next: str | None = Field(
        description="Send this as `after` to get what follows; null at the end of the list."
    )


class UserList(_Page):
    """IDs of users in order."""

    users: list[str]


class ItemList(_Page):
    """IDs and titles of items."""

    items: list[ItemEntry]
