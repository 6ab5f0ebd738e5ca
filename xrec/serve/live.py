"""What frontend and model say to each other: plain values, sent between processes."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Signal = Literal["full", "prompt_only", "none"]
"""full: as trained; prompt_only: injection off, the vectors stand in the prompt alone; none: no vectors, text only."""


@dataclass(frozen=True)
class LivePair:
    """A pair to explain; texts that are None are the dataset's. `history`: item ids of a user that the dataset does not know."""

    user_id: str
    item_id: str
    history: tuple[str, ...] = ()
    user_profile: str | None = None
    item_title: str | None = None
    item_profile: str | None = None
    signal: Signal = "full"


@dataclass(frozen=True)
class Failed:
    """Why there is no explanation; `reason` as in a backfill's failed/, or overloaded."""

    reason: str
    message: str


@dataclass(frozen=True)
class LiveText:
    """A generated explanation; seconds count from the pair's arrival at the model. `failed` None: `text` can be used."""

    text: str
    failed: Failed | None
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    finish_reason: str = "failed"
    model_fingerprint: str = ""
    first_token_seconds: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Delta:
    """What a text has grown by; `restarts`: a second try begins, what came before does not count."""

    text: str
    restarts: bool = False


OVERLOADED = "overloaded"


class Model(Protocol):
    """Whoever generates: a replica behind a handle, or one in this process. May raise ModelUnavailableError."""

    async def explain(self, pairs: Sequence[LivePair]) -> list[LiveText]:
        """One text a pair, in order. All are refused (OVERLOADED) where there is no room for all."""
        ...

    def stream(self, pair: LivePair) -> AsyncGenerator[Delta | LiveText, None]:
        """What the text grows by, then the text."""
        ...

    async def nll(
        self, pair: LivePair, text: str, other_users: Sequence[str]
    ) -> list[float] | Failed:
        """Mean NLL of `text` in nats a token: with the user's own vector, then with that of each other user; or why there is none."""
        ...


class ModelUnavailableError(Exception):
    """No model replica answers: it died, or is not ready. Ask again after a few seconds."""
