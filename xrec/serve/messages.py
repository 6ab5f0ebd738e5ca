"""The bodies of requests and answers; OpenAPI describes them from here."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator

from xrec.data import AspectsFrom, NamedEvidence

MAX_PAIRS = 64
_MAX_FIELDS = 8  # more than any object in a request has

_Id = Annotated[str, Field(min_length=1, max_length=256)]
UserId = Annotated[_Id, Field(description="user_id, as in the dataset.", examples=["resident-17"])]
ItemId = Annotated[_Id, Field(description="item_id, as in the dataset.", examples=["place-3"])]
History = Annotated[list[ItemId], FailFast(), Field(max_length=250)]
Title = Annotated[str, Field(max_length=500)]
Text = Annotated[str, Field(max_length=8000)]


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
        description="/problems/<reason>. The reasons for a pair include those of failed rows of a "
        "backfill."
    )
    title: str = Field(description="Name of the status.")
    status: int = Field(
        description="HTTP status; for one of several pairs, the status that a request for that "
        "pair alone would get."
    )
    detail: str = Field(description="What is wrong, and what to do.")
    request_id: str | None = Field(
        None, description="X-Request-ID of the response, to find the request in the logs."
    )
    errors: list[dict[str, Any]] | None = Field(
        None,
        description="For an invalid request: where each error is, and what was expected.",
    )


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, data: Any) -> Any:
        """Refuse an object with too many keys at once; each would be a separate error."""
        if isinstance(data, dict) and len(data) > _MAX_FIELDS:
            raise ValueError(f"expected at most {_MAX_FIELDS} fields")
        return data


class _PairIds(_Message):
    user_id: UserId
    item_id: ItemId


class ProfileOverrides(_Message):
    """Texts that replace the dataset's in this request."""

    user_profile: Text | None = Field(None, description="A description of the user.")
    item_title: Title | None = Field(None, description="The title of the item.")
    item_profile: Text | None = Field(None, description="A description of the item.")


class PairRequest(_PairIds):
    """A pair to explain."""

    history: History = Field(
        [],
        description="For a user who is not in the dataset: IDs of items that the user "
        "interacted with.",
    )
    profiles: ProfileOverrides | None = Field(
        None, description="Texts that replace the dataset's. The answer is not cached."
    )
    fresh: bool = Field(
        False, description="If true, generate a new text even if the backfill or the cache has one."
    )

    @property
    def is_plain(self) -> bool:
        """Whether a backfill may contain this pair: it has no texts and no history."""
        return not self.history and self.profiles is None

    def without_stored_profile(self) -> "PairRequest":
        """Return the pair without the dataset's user profile, if it replaces other texts."""
        if not self.own_texts or "user_profile" in self.own_texts:
            return self
        profiles = ProfileOverrides(**self.own_texts, user_profile="")
        return self.model_copy(update={"profiles": profiles})

    @property
    def own_texts(self) -> dict[str, Any]:
        """Texts that replace the dataset's, by name."""
        return self.profiles.model_dump(exclude_none=True) if self.profiles else {}


class ExplanationsRequest(_Message):
    """One to 64 pairs to explain together."""

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
                    ]
                },
            ]
        }
    )

    pairs: Annotated[list[PairRequest], FailFast()] = Field(
        min_length=1, max_length=MAX_PAIRS, description="The pairs to explain."
    )


Parts = Literal["checked", "unchecked"]


class StreamRequest(ExplanationsRequest):
    """One to 64 pairs to explain one after another, in parts."""

    parts: Parts = Field(
        "checked",
        description="checked: send whole sentences, once they pass all checks of decoding.text. "
        "unchecked: send each part as soon as it is written; the text may be refused later.",
    )


class PeopleSupport(BaseModel):
    """Why the pair was recommended, by what people did."""

    kind: str = Field(
        description="others: people who chose the supporting item chose this one too; history: the "
        "user chose the supporting item; category: the user chose items of this one's category; "
        "popular: many chose this one."
    )
    item_id: str | None = Field(description="The supporting item, of the user's history.")
    name: str | None = Field(description="Its title, what the text calls it, or the category.")
    at_least: int | None = Field(description="A lower bound of how many other people, in steps.")


class Explanation(BaseModel):
    """A text that explains why the user would like the item."""

    user_id: str
    item_id: str
    explanation: str = Field(
        description="The text of the explanation.",
        examples=["You would enjoy this place for its quiet garden."],
    )
    source: Literal["backfill", "live"] = Field(
        description="backfill: the text is from the backfill; live: it was generated for this "
        "request or an earlier one."
    )
    is_cached: bool = Field(description="True if the text was generated for an earlier request.")
    model_fingerprint: str = Field(
        description="Combined fingerprint of language model, adapter and graph."
    )
    num_generated_tokens: int = Field(description="Number of tokens that the model generated.")
    finish_reason: str = Field(
        description="stop: the model ended the text; length: the text was cut after its last "
        "whole sentence."
    )
    kind: str = Field(
        description="written: by the model; plain: a sentence made from the evidence, because the "
        "model's text was refused or there is no model."
    )
    aspects: tuple[NamedEvidence, ...] = Field(
        description="The aspects chosen for the pair, best first; empty unless the adapter's "
        "prompt uses them (prompt.aspects). item_reviews of the item's num_item_reviews training "
        "reviews mention the aspect, and user_reviews of the user's num_user_reviews. opinion: a "
        "quote in which the item's reviews praise it, or empty. is_named: whether the text names "
        "it. In a dataset without reviews, the item's profile counts as its only review, and the "
        "profiles of the items that the user interacted with count as the user's."
    )
    people: PeopleSupport | None = Field(
        None,
        description="What people did, of a published recommendation; null if nothing is known of "
        "it, and for a key without the scope evidence, since it names the user's history.",
    )


class NoExplanation(BaseModel):
    """A pair without an explanation, and the reason."""

    user_id: str
    item_id: str
    problem: Problem


class Explanations(BaseModel):
    """One answer for each pair, in the order of the request."""

    explanations: list[Explanation | NoExplanation]


class RecommendedItem(BaseModel):
    """An item that the user has not seen, with an explanation."""

    rank: int = Field(description="Rank of the item, from 1.")
    score: float | None = Field(
        description="The recommender's score; for xrec recommend, the dot product of the vectors "
        "plus what neighbors add."
    )
    item_id: str
    title: str
    answer: Explanation | NoExplanation | None = Field(
        description="The explanation; null if the request had explain=false."
    )


class HistoryRequest(_Message):
    """The history of someone who is not in the dataset."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"history": ["place-8"], "k": 3}]})

    history: History = Field(min_length=1, description="IDs of items that the user chose.")
    k: int = Field(5, ge=1, le=MAX_PAIRS, description="Number of items.")


class Recommendations(BaseModel):
    """The best unseen items of a user; `user_id` is null if the request had a history."""

    user_id: str | None
    items: list[RecommendedItem]


class EvidenceRequest(_PairIds):
    """A pair whose evidence is requested."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"user_id": "resident-17", "item_id": "place-3"}]}
    )


class ItemEntry(BaseModel):
    """An item's ID and title."""

    item_id: str
    title: str


class NearHistory(ItemEntry):
    """An item of the user's history and its similarity to the pair's item."""

    similarity: float = Field(description="Cosine of the two items' graph vectors, -1 to 1.")


class Evidence(BaseModel):
    """The evidence behind an explanation."""

    user_id: str
    user_profile: str
    item_id: str
    item_title: str
    item_profile: str
    score: float = Field(description="Dot product of the vectors.")
    rank: int = Field(
        description="Rank of the item among those that the user has not seen, from 1."
    )
    num_ranked: int = Field(description="Number of items in the ranking.")
    nearest_history: list[NearHistory] = Field(
        description="The items in the user's history whose vectors are most similar to the item's."
    )
    aspects_from: AspectsFrom | None = Field(
        description="What an aspect's counts refer to: reviews or, in a dataset without reviews, "
        "profiles; null if the dataset has no aspects."
    )


class _Page(BaseModel):
    next: str | None = Field(
        description="Send this as `after` to get the next page; null on the last page."
    )


class UserList(_Page):
    """IDs of users in order."""

    users: list[str]


class ItemList(_Page):
    """IDs and titles of items."""

    items: list[ItemEntry]
