"""Answers come from the published table, else from memory, else from the model.

A generated text is kept in memory with the fingerprint of its model. Texts are kept and looked up
whole; `max_words` cuts them after a sentence, as the model cuts its own texts. What is left is not
checked again: a model with that limit would have tried again if it named too few aspects.

What was taken down has no answer, wherever its text would come from, and is not written again.
A forgotten user is answered as one whom the dataset never had: the same checks run in the same
order, and neither the table nor the model is asked for this user by ID.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from itertools import islice
from typing import Literal

from xrec.backfill.lookup import Explained, ExplanationLookup
from xrec.data import NamedEvidence
from xrec.errors import StorageNotFoundError, XRecError
from xrec.generate.text_rules import cut_to_words
from xrec.serve.artifacts import PublishedTexts
from xrec.serve.catalogue import Catalogue
from xrec.serve.messages import (
    Explanation,
    NoExplanation,
    PairRequest,
    Parts,
    RecommendedItem,
)
from xrec.serve.metrics import Metrics
from xrec.serve.model import (
    OVERLOADED,
    Draft,
    ModelHandle,
    PairError,
    fault_of_pair,
    unknown_user,
)
from xrec.serve.problems import RETRY_SECONDS, ProblemError, refused, unavailable
from xrec.storage import ByteCache

logger = logging.getLogger("xrec")

KEPT_BYTES = 32 * 2**20
"""For generated texts in memory."""
_ENTRY_BYTES = 400  # estimated bytes of a kept text's key, object and links, without characters
_EVIDENCE_BYTES = 200  # the same of a chosen aspect

_NOBODY = secrets.token_hex()
"""An ID that no dataset has."""

_Source = Literal["backfill", "cache", "live"]


class ReadThrough:
    """Answers pairs from what is published, from generated texts in memory, or by `model`.

    Where artifacts change, another one takes its place, so that a request is answered from one set
    of them. `of`: which they are.
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

    async def explain(
        self, pairs: Sequence[PairRequest], max_words: int | None, key: str = ""
    ) -> list[Explanation | NoExplanation]:
        """Return one answer for each pair, in order.

        All answers from the backfill are of one version. All pairs that must be generated are
        generated together. key: its name. Raises ProblemError with status 429,
        503 or 504.
        """
        async with self._deadline():
            answers = await self._known(pairs, max_words)
            missing = [
                self._as_model_gets(pair)
                for pair, answer in zip(pairs, answers, strict=True)
                if not answer
            ]
            texts = iter(await self.model.explain(missing, key) if missing else ())
            return [
                answer or self._generated(pair, next(texts), max_words)
                for pair, answer in zip(pairs, answers, strict=True)
            ]

    async def recommend(self, user_id: str, k: int) -> list[RecommendedItem]:
        """Return the user's first k published items, without what was taken down.

        Until recommendations are published, the items are ranked now. Afterwards a user without
        published ones gets none, because there may be no eligible item. Raises ProblemError with
        status 404 for an unknown user, 503 if the table cannot be read.
        """
        user, lookup = self.user_index(user_id), self.published.lookup
        items: Iterable[RecommendedItem | None]
        if lookup is None or not lookup.has_recommendations:
            items = await asyncio.to_thread(self.catalogue.recommend, user, k)
        else:
            try:
                rows = (await asyncio.to_thread(lookup.of_user, user_id)).to_pylist()
            except XRecError as error:
                logger.error("the recommendations cannot be read: %s", error)
                raise unavailable("the recommendations cannot be read") from error
            items = (
                self.catalogue.as_recommended(row["item_id"], row["rank"] or place, row["score"])
                for place, row in enumerate(rows, start=1)
            )
        down = self.published.takedowns
        shown = (
            item
            for item in filter(None, items)
            if down.of_row({"user_id": user_id, "item_id": item.item_id}) is None
        )
        return list(islice(shown, k))

    async def stream(
        self, pair: PairRequest, max_words: int | None, parts: Parts, key: str = ""
    ) -> AsyncGenerator[Draft | Explanation | NoExplanation, None]:
        """Yield drafts of the text while it is written, then the answer.

        An answer from the backfill or from memory has no drafts. Raises as `explain` does.
        """
        async with self._deadline():
            (known,) = await self._known([pair], max_words)
            if known is not None:
                yield known
                return
            asked = self._as_model_gets(pair)
            async with aclosing(self.model.stream(asked, parts, key)) as events:
                async for event in events:
                    if isinstance(event, Draft):
                        text = self._cut(event.text, pair, max_words)
                        is_refused = self._refusal(pair, text) is not None
                        yield replace(event, text="" if is_refused else text)
                    else:
                        yield self._generated(pair, event, max_words)

    def user_index(self, user_id: str) -> int:
        """Return the index of a user.

        Raises the same ProblemError, with status 404, for unknown and forgotten users.
        """
        index = self.catalogue.dataset.user_ids.find(user_id)
        if self._is_forgotten(user_id) or index is None:
            raise refused("unknown_user", f"user {user_id!r} is not known")
        return index

    def users(self, prefix: str, after: str, limit: int) -> list[str]:
        """Return the first `limit` IDs of users that begin with `prefix` and come after `after`.

        Those who are forgotten leave no gap.
        """
        found = self.catalogue.dataset.user_ids.starting_with(prefix, after)
        return list(islice((each for each in found if not self._is_forgotten(each)), limit))

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        """Raise ProblemError with status 504 if the `with` takes longer than a request may."""
        try:
            async with asyncio.timeout(self._deadline_seconds):
                yield
        except TimeoutError as error:
            self._metrics.refused.inc(1, {"reason": "deadline"})
            raise ProblemError(
                504,
                "deadline",
                f"not answered within {self._deadline_seconds:g} s (http.deadline_seconds); "
                "ask for fewer pairs",
                RETRY_SECONDS,
            ) from error

    async def _known(
        self, pairs: Sequence[PairRequest], max_words: int | None
    ) -> list[Explanation | NoExplanation | None]:
        """Return the answers from the backfill or from memory, None where neither has one.

        All are of one version, and of its model. If a vacuum deleted a file of it, all pairs are
        answered from the version that came since.
        """
        published = self.published
        lookup = published.lookup
        while True:
            try:
                return [await self._known_one(pair, max_words, published, lookup) for pair in pairs]
            except StorageNotFoundError as error:
                logger.warning("a file of the backfill is gone, a newer one is sought: %s", error)
            await published.look()
            lookup = None if published.lookup is lookup else published.lookup

    async def _known_one(
        self,
        pair: PairRequest,
        max_words: int | None,
        published: PublishedTexts,
        lookup: ExplanationLookup | None,
    ) -> Explanation | NoExplanation | None:
        if (failed := self._refusal(pair)) is not None:
            return self._failed(pair, failed)
        if not pair.is_plain or pair.fresh:
            return None
        row = await self._backfilled(lookup, pair)
        if self._is_forgotten(pair.user_id):  # the version may be older than the list
            return None
        if row is not None:
            return self._answer(pair, row, "backfill", max_words)
        kept = self._kept.get((published.model_fingerprint, pair.user_id, pair.item_id))
        return None if kept is None else self._answer(pair, kept, "cache", max_words)

    async def _backfilled(
        self, lookup: ExplanationLookup | None, pair: PairRequest
    ) -> Explained | None:
        """Return the row of the pair; raises StorageNotFoundError if a file is gone."""
        if lookup is None:
            return None
        is_known, row = lookup.in_memory(pair.user_id, pair.item_id)
        if is_known:
            return row
        try:
            return await asyncio.to_thread(lookup.find, pair.user_id, pair.item_id)
        except StorageNotFoundError:
            raise
        except XRecError as error:  # the storage does not answer, or a file is broken
            logger.error("the backfill cannot be read, the model is asked instead: %s", error)
            return None

    def _generated(
        self, pair: PairRequest, text: Explained | PairError, max_words: int | None
    ) -> Explanation | NoExplanation:
        """Return a generated text as an answer, and keep it in memory if the pair is plain.

        Raises ProblemError if the model had no room.
        """
        if isinstance(text, PairError):
            return self._failed(pair, text)
        if pair.is_plain:
            key = (text.model_fingerprint, pair.user_id, pair.item_id)
            characters = sum(len(part.encode()) for part in (*key, text.text))
            num_bytes = _ENTRY_BYTES + characters + _EVIDENCE_BYTES * len(text.aspects)
            self._kept.put(key, text, num_bytes)
        return self._answer(pair, text, "live", max_words)

    def _failed(self, pair: PairRequest, failed: PairError) -> NoExplanation:
        if failed.reason == OVERLOADED:
            self._metrics.refused.inc(1, {"reason": "queue"})
            raise refused(failed.reason, failed.message)
        self._metrics.pairs.inc(1, {"source": "failed"})
        self._metrics.failed_pairs.inc(1, {"reason": failed.reason})
        return _no_explanation(pair, failed.reason, failed.message)

    def _answer(
        self,
        pair: PairRequest,
        found: Explained,
        source: _Source,
        max_words: int | None,
    ) -> Explanation | NoExplanation:
        """Return what was found, cut to `max_words`, unless it was taken down meanwhile."""
        quotes = [evidence.opinion for evidence in found.aspects]
        if (failed := self._refusal(pair, found.text, *quotes)) is not None:
            return self._failed(pair, failed)
        try:
            text = self._cut(found.text, pair, max_words)
            aspects = self._aspects(found, text)
        except Exception as error:  # noqa: BLE001  it is logged
            return self._failed(pair, fault_of_pair(error))
        self._metrics.pairs.inc(1, {"source": source})
        if not text:
            return _no_explanation(
                pair,
                "no_full_sentence",
                f"no sentence of the explanation ends within max_words = {max_words}; allow more",
            )
        return Explanation(
            user_id=pair.user_id,
            item_id=pair.item_id,
            explanation=text,
            source="backfill" if source == "backfill" else "live",
            is_cached=source == "cache",
            model_fingerprint=found.model_fingerprint,
            num_generated_tokens=found.num_generated_tokens,
            finish_reason=found.finish_reason,
            kind=found.kind,
            aspects=aspects,
        )

    def _is_forgotten(self, user_id: str) -> bool:
        return self.published.takedowns.is_forgotten(user_id)

    def _as_model_gets(self, pair: PairRequest) -> PairRequest:
        """Return the pair; instead of a forgotten user it has one whom no dataset knows."""
        if not self._is_forgotten(pair.user_id):
            return pair
        return pair.model_copy(update={"user_id": _NOBODY})

    def _refusal(self, pair: PairRequest, *texts: str) -> PairError | None:
        """Return why the pair, or these texts of it, must not be shown; None if they may be."""
        takedowns, user_id = self.published.takedowns, self._as_model_gets(pair).user_id
        number = takedowns.of_row({"user_id": user_id, "item_id": pair.item_id})
        number = takedowns.of_texts(texts) if number is None else number
        if number is not None:
            message = (
                f"its explanation was taken down (takedown {number}), and is not written again"
            )
            return PairError("taken_down", message)
        # A user who was forgotten while the text was made.
        is_forgotten = bool(texts) and user_id == _NOBODY and not pair.history
        return unknown_user() if is_forgotten else None

    def _aspects(self, found: Explained, text: str) -> tuple[NamedEvidence, ...]:
        """Return the chosen aspects, each with whether `text`, which is shown, names it."""
        if text == found.text:
            return found.aspects
        aspects = [evidence.aspect for evidence in found.aspects]
        are_named = self.catalogue.aspect_names.are_named(aspects, text)
        return tuple(
            replace(evidence, is_named=is_named)
            for evidence, is_named in zip(found.aspects, are_named, strict=True)
        )

    def _cut(self, text: str, pair: PairRequest, max_words: int | None) -> str:
        """Return the text of a pair in at most `max_words`; its title is "" if it is not known."""
        item = self.catalogue.dataset.item_ids.find(pair.item_id)
        known = "" if item is None else self.catalogue.item_texts(item)[0]
        return cut_to_words(text, max_words, str(pair.own_texts.get("item_title", known)))


def _no_explanation(pair: PairRequest, reason: str, message: str) -> NoExplanation:
    problem = refused(reason, message).problem
    return NoExplanation(user_id=pair.user_id, item_id=pair.item_id, problem=problem)
