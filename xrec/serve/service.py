"""The work of the endpoint without HTTP: explanations, recommendations and evidence.

Each request has a deadline.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from typing import Protocol, TypeVar

from xrec.errors import UnknownIdError
from xrec.serve import metrics
from xrec.serve.catalogue import Catalogue
from xrec.serve.live import Delta, Failed, LivePair, Model, ModelUnavailableError
from xrec.serve.messages import (
    Evidence,
    Explanation,
    Likelihood,
    NearHistory,
    NoExplanation,
    PairRequest,
    RecommendedItem,
)
from xrec.serve.metrics import Recorder
from xrec.serve.problems import ProblemError, refused, unavailable
from xrec.serve.read_through import ReadThrough

logger = logging.getLogger("xrec")
T = TypeVar("T")

NUM_NEAREST = 5
NUM_OTHERS = 8


class Readiness(Protocol):
    """Something that knows whether a model is loaded."""

    async def model_fingerprint(self) -> str:
        """Return the fingerprint of the loaded model; raise ModelUnavailableError if none is."""
        ...


class Service:
    """Answers from its `catalogue`, `read_through` and `model`.

    `catalogue` is None at first, and is replaced when the inputs change.
    """

    def __init__(
        self,
        model: Model,
        readiness: Readiness,
        read_through: ReadThrough,
        recorder: Recorder,
        deadline_seconds: float,
    ):
        self._model, self._readiness, self._read_through, self.recorder = (
            model,
            readiness,
            read_through,
            recorder,
        )
        self._deadline_seconds = deadline_seconds
        self.catalogue: Catalogue | None = None

    async def explain(
        self, pairs: Sequence[PairRequest], max_words: int | None
    ) -> list[Explanation | NoExplanation]:
        """Return one answer for each pair; raise ProblemError with status 429, 503 or 504."""
        return await self._within_deadline(self._read_through.explain(pairs, max_words))

    async def stream(
        self, pair: PairRequest, max_words: int | None
    ) -> AsyncGenerator[Delta | Explanation | NoExplanation, None]:
        """Yield the parts of the text, then the answer; raise ProblemError as `explain` does."""
        try:
            async with (
                asyncio.timeout(self._deadline_seconds),
                aclosing(self._read_through.stream(pair, max_words)) as events,
            ):
                async for event in events:
                    yield event
        except TimeoutError as error:
            raise self._too_late() from error
        except ModelUnavailableError as error:
            raise _unavailable(error) from error

    async def recommend(
        self, user_id: str, k: int, max_words: int | None, explains: bool
    ) -> list[RecommendedItem]:
        """Return the k best unseen items; raise ProblemError, also with status 404."""
        catalogue = self._catalogue()
        user = self._index(catalogue, "user", user_id)
        ranked = await asyncio.to_thread(catalogue.recommend, user, k)
        pairs = [
            PairRequest(user_id=user_id, item_id=catalogue.item_id(item)) for item, _ in ranked
        ]
        answers: Sequence[Explanation | NoExplanation | None] = (
            await self.explain(pairs, max_words) if explains and pairs else [None] * len(pairs)
        )
        return [
            RecommendedItem(
                rank=place + 1,
                score=score,
                item_id=pair.item_id,
                title=catalogue.item_texts(item)[0],
                answer=answer,
            )
            for place, ((item, score), pair, answer) in enumerate(
                zip(ranked, pairs, answers, strict=True)
            )
        ]

    async def evidence(self, user_id: str, item_id: str, text: str | None) -> Evidence:
        """Return what speaks for the pair and, with `text`, the likelihood of the text.

        Raises ProblemError, also with status 404 and 422.
        """
        catalogue = self._catalogue()
        user, item = (
            self._index(catalogue, "user", user_id),
            self._index(catalogue, "item", item_id),
        )
        title, profile = catalogue.item_texts(item)
        standing, nearest = await asyncio.to_thread(
            lambda: (
                catalogue.standing(user, item),
                catalogue.nearest_history(user, item, NUM_NEAREST),
            )
        )
        return Evidence(
            user_id=user_id,
            user_profile=catalogue.user_profile(user),
            item_id=item_id,
            item_title=title,
            item_profile=profile,
            score=standing.score,
            rank=standing.rank,
            num_ranked=standing.num_ranked,
            nearest_history=[
                NearHistory(item_id=near.item_id, title=near.title, similarity=near.similarity)
                for near in nearest
            ],
            aspects_from=catalogue.dataset.aspects_from,
            likelihood=None
            if text is None
            else await self._within_deadline(
                self._likelihood(catalogue, user, user_id, item_id, text)
            ),
        )

    async def is_ready(self) -> bool:
        """True once the catalogue is read and a model replica answers."""
        if self.catalogue is None:
            return False
        try:
            return bool(await self._within_deadline(self._readiness.model_fingerprint()))
        except ProblemError:
            return False

    def _catalogue(self) -> Catalogue:
        assert self.catalogue is not None, "a replica answers once it is configured"
        return self.catalogue

    def find_users(self, prefix: str, limit: int) -> list[str]:
        """See `Catalogue`."""
        return self._catalogue().find_users(prefix, limit)

    async def find_items(self, text: str, limit: int) -> list[tuple[str, str]]:
        """See `Catalogue`."""
        return await asyncio.to_thread(self._catalogue().find_items, text, limit)

    async def _likelihood(
        self, catalogue: Catalogue, user: int, user_id: str, item_id: str, text: str
    ) -> Likelihood:
        others = catalogue.other_users(user, NUM_OTHERS)
        nll = await self._model.nll(LivePair(user_id, item_id), text, others)
        if isinstance(nll, Failed):
            raise refused(nll.reason, nll.message)
        own, *others_nll = nll
        gain = sum(others_nll) / len(others_nll) - own if others_nll else 0.0
        return Likelihood(own_nll=own, others_nll=others_nll, gain=gain)

    def _index(self, catalogue: Catalogue, what: str, wanted: str) -> int:
        try:
            return (
                catalogue.dataset.user_index(wanted)
                if what == "user"
                else catalogue.dataset.item_index(wanted)
            )
        except UnknownIdError as error:
            raise refused(f"unknown_{what}", str(error)) from error

    async def _within_deadline(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return await work
        except TimeoutError as error:
            raise self._too_late() from error
        except ModelUnavailableError as error:
            raise _unavailable(error) from error

    def _too_late(self) -> ProblemError:
        self.recorder.increase(metrics.REFUSED, {"reason": "deadline"})
        return ProblemError(
            504,
            "deadline",
            f"not answered within {self._deadline_seconds:g} s (http.deadline_seconds); "
            "ask for fewer pairs",
            2,
        )


def _unavailable(error: ModelUnavailableError) -> ProblemError:
    logger.warning("no model replica answered: %s", error)
    return unavailable()
