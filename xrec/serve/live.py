"""The values that frontend and model replica send to each other."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from xrec.data.evidence import NamedEvidence

Signal = Literal["full", "prompt_only", "none"]
"""How much of the collaborative signal the model gets.

full: as in training. prompt_only: the vectors stand in the prompt, but are not injected into the
layers. none: there are no vectors, only texts.
"""


@dataclass(frozen=True)
class LivePair:
    """A pair to explain.

    A text that is None is taken from the dataset. `history` has item ids; it is for a user that the
    dataset does not know.
    """

    user_id: str
    item_id: str
    history: tuple[str, ...] = ()
    user_profile: str | None = None
    item_title: str | None = None
    item_profile: str | None = None
    signal: Signal = "full"


@dataclass(frozen=True)
class Failed:
    """Why there is no explanation.

    `reason` is one of those of a backfill's failed rows, or "overloaded", "known_user",
    "no_vector", "unknown_id" or "text_too_long".
    """

    reason: str
    message: str


@dataclass(frozen=True)
class LiveText:
    """A generated explanation.

    If `failed` is None, `text` can be used. `kind` is "written" by the model, or a "plain" sentence
    from the evidence in place of a text that was refused, or an opening that the model ended.
    `aspects` are those that were chosen.
    Seconds count from the arrival of the pair at the model.
    """

    text: str
    failed: Failed | None
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    finish_reason: str = "failed"
    model_fingerprint: str = ""
    first_token_seconds: float = 0.0
    seconds: float = 0.0
    kind: str = "written"
    aspects: tuple[NamedEvidence, ...] = ()


@dataclass(frozen=True)
class Delta:
    """The next part of a text; if `restarts`, a second try begins and earlier parts are void."""

    text: str
    restarts: bool = False


OVERLOADED, TOO_MANY = "overloaded", "too_many_pairs"


class Model(Protocol):
    """What generates: a replica behind a handle, or an explainer in this process.

    Its methods may raise ModelUnavailableError.
    """

    async def explain(self, pairs: Sequence[LivePair]) -> list[LiveText]:
        """Return one text for each pair, in order.

        If there is not room for all pairs, all fail with the reason OVERLOADED.
        """
        ...

    def stream(self, pair: LivePair) -> AsyncGenerator[Delta | LiveText, None]:
        """Yield the parts of the text while it is written, then the text."""
        ...

    async def nll(
        self, pair: LivePair, text: str, other_users: Sequence[str]
    ) -> list[float] | Failed:
        """Return the mean negative log likelihood of `text`, nats per token.

        The first number is with the user's own vector, the next ones are with the vector of each
        of `other_users`. Returns `Failed` if there is none.
        """
        ...


class ModelUnavailableError(Exception):
    """No model replica answers: it died or is not ready. A try in a few seconds may succeed."""
