"""Answer pairs from the published table, else from memory, else from the model.

A generated text is kept in memory with the fingerprint of its model.

A pair that was taken down is refused, wherever its text would come from. A forgotten user is
treated exactly as a user who was never in the dataset: the same checks run in the same order, and
neither the table nor the model receives the user's ID.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from itertools import islice
from typing import Literal

from xrec.backfill.lookup import Explained, ExplanationLookup
from xrec.errors import DataError, StorageNotFoundError, XRecError
from xrec.neighbors.sentences import support_name
from xrec.serve.artifacts import PublishedTexts
from xrec.serve.catalogue import Catalogue
from xrec.serve.messages import (
    Explanation,
    NoExplanation,
    PairRequest,
    Parts,
    PeopleSupport,
    RecommendedItem,
)
from xrec.serve.metrics import Metrics
from xrec.serve.model import OVERLOADED, Draft, ModelHandle, PairError, unknown_user
from xrec.serve.problems import RETRY_SECONDS, ProblemError, refused, unavailable
from xrec.storage import ByteCache

logger = logging.getLogger("xrec")

KEPT_BYTES = 32 * 2**20
"""Size of the cache of generated texts."""
_ENTRY_BYTES = 400  # estimated size of a cached text's key, object and links, without characters
_EVIDENCE_BYTES = 200  # the same for a chosen aspect

_NOBODY = secrets.token_hex()
"""An ID that is in no dataset."""

Answer = Explanation | NoExplanation


class ReadThrough:
    """Answers pairs from the published table, from the texts in memory, or by calling `model`.

    It is replaced as a whole when artifacts change, so that each request uses one set of them.

    of: identifies the artifacts.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        published: PublishedTexts,
        model: ModelHandle,
        metrics: Metrics,
        deadline_seconds: float,
        of: tuple[str, str] = ("", ""),
    ):
        self.catalogue, self.published = catalogue, published
        self.model, self._metrics, self.of = model, metrics, of
        self._deadline_seconds = deadline_seconds
        self._kept: ByteCache[tuple[str, str, str], Explained] = ByteCache(KEPT_BYTES)

    async def explain(self, pairs: Sequence[PairRequest], key: str = "") -> list[Answer]:
        """Return one answer for each pair, in order.

        All answers from the backfill are from one version. The other pairs go to the model
        together. key: the name of the client's key. Raises ProblemError with status 429, 503 or
        504.
        """
        async with self._deadline():
            answers = await self._known(pairs)
            missing = [
                self._without_forgotten(pair)
                for pair, answer in zip(pairs, answers, strict=True)
                if not answer
            ]
            texts = iter(await self.model.explain(missing, key) if missing else ())
            return [
                answer or self._generated(pair, next(texts))
                for pair, answer in zip(pairs, answers, strict=True)
            ]

    async def stream(
        self, pair: PairRequest, parts: Parts, key: str = ""
    ) -> AsyncGenerator[Draft | Answer, None]:
        """Yield drafts of the text while it is written, then the answer.

        An answer from the backfill or from memory has no drafts. Raises as `explain` does.
        """
        async with self._deadline():
            (known,) = await self._known([pair])
            if known is not None:
                yield known
                return
            request = self._without_forgotten(pair)
            async with aclosing(self.model.stream(request, parts, key)) as events:
                async for event in events:
                    if not isinstance(event, Draft):
                        yield self._generated(pair, event)
                    elif self._refusal(pair, event.text) is None:
                        yield event
                    else:
                        yield Draft("", event.is_checked)

    async def recommend(self, user_id: str, k: int) -> list[RecommendedItem]:
        """Return the user's first k published items that were not taken down.

        Until recommendations are published, the items are ranked here. After that, a user without
        published items gets none, because perhaps no item is eligible. Raises ProblemError with
        status 404 for an unknown user, 503 if the table cannot be read.
        """
        user, lookup = self.user_index(user_id), self.published.lookup
        items: Iterable[RecommendedItem | None]
        if lookup is None or not lookup.has_recommendations:
            items = await asyncio.to_thread(self.catalogue.recommend, user)
        else:
            try:
                rows = (await asyncio.to_thread(lookup.of_user, user_id)).to_pylist()
            except XRecError as error:
                logger.error("cannot read the recommendations: %s", error)
                raise unavailable("the recommendations cannot be read") from error
            items = (
                self.catalogue.as_recommended(row["item_id"], row["rank"] or number, row["score"])
                for number, row in enumerate(rows, start=1)
            )
        return self._shown(user_id, items, k)

    async def recommend_from(self, history: Sequence[str], k: int) -> list[RecommendedItem]:
        """Return the k best items for someone who is not in the dataset, by their history.

        Raises UnknownIdError for an unknown item, ProblemError with status 422 if no item helps.
        """
        try:
            items = await asyncio.to_thread(self.catalogue.recommend_from, history)
        except DataError as error:
            raise refused("no_vector", str(error)) from error
        return self._shown(_NOBODY, items, k)

    def _shown(
        self, user_id: str, items: Iterable[RecommendedItem | None], k: int
    ) -> list[RecommendedItem]:
        """Return the first k of a user's items that exist and were not taken down."""
        takedowns = self.published.takedowns
        shown = (
            item
            for item in filter(None, items)
            if takedowns.of_row({"user_id": user_id, "item_id": item.item_id}) is None
        )
        return list(islice(shown, k))

    def user_index(self, user_id: str) -> int:
        """Return the index of a user.

        Raises the same ProblemError, with status 404, for unknown and forgotten users.
        """
        index = self.catalogue.dataset.user_ids.find(user_id)
        if self._is_forgotten(user_id) or index is None:
            raise refused("unknown_user", f"user {user_id!r} is unknown")
        return index

    def users(self, prefix: str, after: str, limit: int) -> list[str]:
        """Return the first `limit` user IDs after `after` that start with `prefix`.

        Forgotten users are skipped.
        """
        ids = self.catalogue.dataset.user_ids.starting_with(prefix, after)
        return list(islice((user_id for user_id in ids if not self._is_forgotten(user_id)), limit))

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        """Raise ProblemError with status 504 if the `with` block exceeds the deadline."""
        try:
            async with asyncio.timeout(self._deadline_seconds):
                yield
        except TimeoutError as error:
            self._metrics.refused.inc(1, {"reason": "deadline"})
            raise ProblemError(
                504,
                "deadline",
                f"not answered within {self._deadline_seconds:g} s (http.deadline_seconds); "
                "send fewer pairs",
                RETRY_SECONDS,
            ) from error

    async def _known(self, pairs: Sequence[PairRequest]) -> list[Answer | None]:
        """Return the answers from the backfill or from memory, None where neither has one.

        All are from one version. If a vacuum has deleted one of its files, all pairs are looked up
        in a newer version, if there is one.
        """
        lookup = self.published.lookup
        while True:
            try:
                return [await self._known_one(pair, lookup) for pair in pairs]
            except StorageNotFoundError as error:
                logger.warning("a file of the backfill is gone; opening a newer version: %s", error)
            await self.published.look()
            lookup = None if self.published.lookup is lookup else self.published.lookup

    async def _known_one(
        self, pair: PairRequest, lookup: ExplanationLookup | None
    ) -> Answer | None:
        if (failed := self._refusal(pair)) is not None:
            return self._failed(pair, failed)
        if not pair.is_plain or pair.fresh:
            return None
        row = None if lookup is None else await _find(lookup, pair)
        if self._is_forgotten(pair.user_id):  # the version may be older than the takedown
            return None
        if row is not None:
            return self._answer(pair, row, "backfill")
        kept = self._kept.get((self.published.model_fingerprint, pair.user_id, pair.item_id))
        return None if kept is None else self._answer(pair, kept, "cache")

    def _generated(self, pair: PairRequest, text: Explained | PairError) -> Answer:
        """Return the answer for a generated text, which is kept in memory if the pair is plain.

        Raises ProblemError if the model was overloaded.
        """
        if isinstance(text, PairError):
            return self._failed(pair, text)
        if pair.is_plain:
            key = (text.model_fingerprint, pair.user_id, pair.item_id)
            num_bytes = len("".join((*key, text.text)).encode())
            num_bytes += _ENTRY_BYTES + _EVIDENCE_BYTES * len(text.aspects)
            self._kept.put(key, text, num_bytes)
        return self._answer(pair, text, "live")

    def _answer(
        self, pair: PairRequest, row: Explained, source: Literal["backfill", "cache", "live"]
    ) -> Answer:
        """Return the answer for a text, unless it has been taken down."""
        quotes = [evidence.opinion for evidence in row.aspects]
        if (failed := self._refusal(pair, row.text, *quotes)) is not None:
            return self._failed(pair, failed)
        self._metrics.pairs.inc(1, {"source": source})
        return Explanation(
            user_id=pair.user_id,
            item_id=pair.item_id,
            explanation=row.text,
            source="backfill" if source == "backfill" else "live",
            is_cached=source == "cache",
            model_fingerprint=row.model_fingerprint,
            num_generated_tokens=row.num_generated_tokens,
            finish_reason=row.finish_reason,
            kind=row.kind,
            aspects=row.aspects,
            people=self._people(row),
        )

    def _people(self, row: Explained) -> PeopleSupport | None:
        """Return what people did, by the columns of a published row."""
        kind, item_id = row.evidence_kind, row.evidence_item_id
        if kind is None or kind == "abstained":
            return None
        item = self.catalogue.dataset.item_ids.find(item_id) if item_id else None
        title = "" if item is None else self.catalogue.item_texts(item)[0]
        name = support_name(item_id, title) if item_id else row.evidence_category
        return PeopleSupport(kind=kind, item_id=item_id, name=name, at_least=row.evidence_at_least)

    def _failed(self, pair: PairRequest, failed: PairError) -> NoExplanation:
        if failed.reason == OVERLOADED:
            self._metrics.refused.inc(1, {"reason": "queue"})
            raise refused(failed.reason, failed.message)
        self._metrics.pairs.inc(1, {"source": "failed"})
        self._metrics.failed_pairs.inc(1, {"reason": failed.reason})
        problem = refused(failed.reason, failed.message).problem
        return NoExplanation(user_id=pair.user_id, item_id=pair.item_id, problem=problem)

    def _is_forgotten(self, user_id: str) -> bool:
        return self.published.takedowns.is_forgotten(user_id)

    def _without_forgotten(self, pair: PairRequest) -> PairRequest:
        """Return the pair; if its user was forgotten, with an unknown user ID."""
        if not self._is_forgotten(pair.user_id):
            return pair
        return pair.model_copy(update={"user_id": _NOBODY})

    def _refusal(self, pair: PairRequest, *texts: str) -> PairError | None:
        """Return why the pair, or these texts of it, must not be shown; None if they may be."""
        takedowns, user_id = self.published.takedowns, self._without_forgotten(pair).user_id
        number = takedowns.of_row({"user_id": user_id, "item_id": pair.item_id})
        number = takedowns.of_texts(texts) if number is None else number
        if number is not None:
            message = f"the explanation was taken down (takedown {number}) and is not written again"
            return PairError("taken_down", message)
        # The user was forgotten while the text was being written.
        is_forgotten = bool(texts) and user_id == _NOBODY and not pair.history
        return unknown_user() if is_forgotten else None


async def _find(lookup: ExplanationLookup, pair: PairRequest) -> Explained | None:
    """Return the row of the pair, or None; raise StorageNotFoundError if a file is gone."""
    is_known, row = lookup.in_memory(pair.user_id, pair.item_id)
    if is_known:
        return row
    try:
        return await asyncio.to_thread(lookup.find, pair.user_id, pair.item_id)
    except StorageNotFoundError:
        raise
    except XRecError as error:  # the store does not respond, or a file is damaged
        logger.error("cannot read the backfill; answering without it: %s", error)
        return None
