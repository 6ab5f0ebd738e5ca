"""Answers come from the published table, else from memory, else from the model.

A generated text is kept in memory with the fingerprint of its model. Texts are kept and looked up
whole; `max_words` cuts them after a sentence, as the model cuts its own texts. What is left is not
checked again: a model with that limit would have tried again if it named too few aspects.

What was taken down has no answer, wherever its text would come from, and is not written again.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Literal

from xrec.backfill.lookup import Explained, ExplanationLookup
from xrec.data.evidence import NamedEvidence
from xrec.errors import StorageNotFoundError, XRecError
from xrec.generate.text_rules import cut_to_words
from xrec.serve.artifacts import Candidate, PublishedTexts
from xrec.serve.catalogue import Catalogue
from xrec.serve.feedback import SHADOW, FeedbackLog
from xrec.serve.messages import Explanation, NoExplanation, PairRequest, Parts
from xrec.serve.metrics import Metrics
from xrec.serve.model import OVERLOADED, Draft, ModelHandle, PairError
from xrec.serve.problems import RETRY_SECONDS, ProblemError, refused
from xrec.storage.cache import ByteCache

logger = logging.getLogger("xrec")

KEPT_BYTES = 32 * 2**20
"""For generated texts in memory."""
_ENTRY_BYTES = 400  # estimated bytes of a kept text's key, object and links, without characters
_EVIDENCE_BYTES = 200  # the same of a chosen aspect

PUBLISHED = "published"
"""The arm of a text that is not a candidate's."""

_Source = Literal["backfill", "cache", "live"]


class ReadThrough:
    """Answers pairs from what is published, from generated texts in memory, or by `model`.

    `catalogue` and `published` are set before the first request. Where artifacts change, another
    one takes its place, so that a request is answered from one set of them. `of`: which they are.
    """

    catalogue: Catalogue
    published: PublishedTexts

    def __init__(
        self,
        model: ModelHandle,
        metrics: Metrics,
        deadline_seconds: float,
        feedback: FeedbackLog,
        of: tuple[str, str] = ("", ""),
    ):
        self.model, self._metrics, self._feedback, self.of = model, metrics, feedback, of
        self._deadline_seconds = deadline_seconds
        self._kept: ByteCache[tuple[str, str, str], Explained] = ByteCache(KEPT_BYTES)

    async def explain(
        self, pairs: Sequence[PairRequest], max_words: int | None, key: str = ""
    ) -> list[Explanation | NoExplanation]:
        """Return one answer for each pair, in order.

        All answers from the backfill are of one version. All pairs that must be generated are
        generated together. key: the name of that which asks. Raises ProblemError with status 429,
        503 or 504.
        """
        async with self._deadline():
            answers = await self._known(pairs, max_words)
            missing = [pair for pair, answer in zip(pairs, answers, strict=True) if not answer]
            texts = iter(await self.model.explain(missing, key) if missing else ())
            return [
                answer or self._generated(pair, next(texts), max_words)
                for pair, answer in zip(pairs, answers, strict=True)
            ]

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
            async with aclosing(self.model.stream(pair, parts, key)) as events:
                async for event in events:
                    if isinstance(event, Draft):
                        text = self._cut(event.text, pair, max_words)
                        is_taken = self._takedown_of(pair, text) is not None
                        yield replace(event, text="" if is_taken else text)
                    else:
                        yield self._generated(pair, event, max_words)

    async def facts(self, pair: PairRequest) -> dict[str, Any]:
        """What a plain pair is answered with now, as far as it is there: columns of feedback."""
        lookup, found, arm = self.published.lookup, None, PUBLISHED
        with suppress(StorageNotFoundError):
            found, arm = await self._row(lookup, pair)
        version = lookup.manifest.version if lookup and found and arm == PUBLISHED else None
        key = (self.published.model_fingerprint, pair.user_id, pair.item_id)
        found = found or self._kept.get(key)
        return {
            "arm": arm,
            "version": version,
            "model_fingerprint": found.model_fingerprint if found else key[0],
            "aspects": [each.aspect for each in found.aspects if each.is_named] if found else [],
        }

    async def is_ready(self) -> bool:
        """True if a model replica answers."""
        try:
            async with self._deadline():
                return bool(await self.model.model_fingerprint())
        except ProblemError:
            return False

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
        if (number := self._takedown_of(pair)) is not None:
            return self._taken_down(pair, number)
        if not pair.is_plain or pair.fresh:
            return None
        row, arm = await self._row(lookup, pair)
        await self._look_beside(pair, row)
        if row is not None:
            return self._answer(pair, row, "backfill", max_words, arm)
        kept = self._kept.get((published.model_fingerprint, pair.user_id, pair.item_id))
        return None if kept is None else self._answer(pair, kept, "cache", max_words)

    async def _row(
        self, lookup: ExplanationLookup | None, pair: PairRequest
    ) -> tuple[Explained | None, str]:
        """Return the row that answers the pair, and its arm; raises as `_backfilled` does."""
        shown = self._candidate(pair, is_shown=True)
        if shown and (row := await self._backfilled(shown, pair)) is not None:
            return row, shown.run.record.run
        return await self._backfilled(lookup, pair), PUBLISHED

    async def _look_beside(self, pair: PairRequest, row: Explained | None) -> None:
        """Note what a candidate that is not shown has in the place of the row."""
        if (candidate := self._candidate(pair, is_shown=False)) is None:
            return
        other = await self._backfilled(candidate, pair)
        said = "same" if row and other and row.text == other.text else "other"
        event = {"event": SHADOW + (said if other else "missing"), "item_id": pair.item_id}
        with suppress(ProblemError):
            arm = {"arm": candidate.run.record.run}
            self._feedback.take(self.published.uri, pair.user_id, {**event, **arm})

    def _candidate(self, pair: PairRequest, *, is_shown: bool) -> Candidate | None:
        found = self.published.candidate
        return (
            found if found and found.is_shown == is_shown and found.is_for(pair.user_id) else None
        )

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
        arm: str = PUBLISHED,
    ) -> Explanation | NoExplanation:
        """Return what was found, cut to `max_words`, unless it was taken down meanwhile."""
        quotes = [evidence.opinion for evidence in found.aspects]
        if (number := self._takedown_of(pair, found.text, *quotes)) is not None:
            return self._taken_down(pair, number)
        self._metrics.pairs.inc(1, {"source": source})
        text = self._cut(found.text, pair, max_words)
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
            arm=arm,
            num_generated_tokens=found.num_generated_tokens,
            finish_reason=found.finish_reason,
            kind=found.kind,
            aspects=self._aspects(found, text),
        )

    def _takedown_of(self, pair: PairRequest, *texts: str) -> int | None:
        """Return the takedown of the pair, or of these texts of it; None if there is none."""
        takedowns = self.published.takedowns
        number = takedowns.of_row({"user_id": pair.user_id, "item_id": pair.item_id})
        return takedowns.of_texts(texts) if number is None else number

    def refuse_forgotten(self, user_id: str) -> None:
        """Raise ProblemError with status 404 for a user who is forgotten."""
        if self.published.takedowns.is_forgotten(user_id):
            raise refused("unknown_user", "the user is not known")

    def _taken_down(self, pair: PairRequest, number: int) -> NoExplanation:
        message = f"its explanation was taken down (takedown {number}), and is not written again"
        return self._failed(pair, PairError("taken_down", message))

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
