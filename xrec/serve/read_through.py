"""Answers come from the backfill, else from memory, else from the model.

A generated text is kept in memory with the fingerprint of its model. Texts are kept and looked up
whole; `max_words` cuts them after a sentence, as the model cuts its own texts. Checks, tries and
evidence were those of the whole text: a model with that limit would try again if the beginning
named too few aspects.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace

from xrec.backfill.lookup import Explained, ExplanationLookup
from xrec.checks import AspectNames
from xrec.data.evidence import NamedEvidence
from xrec.errors import XRecError
from xrec.generate.text_rules import cut_to_words
from xrec.serve import metrics
from xrec.serve.catalogue import Catalogue
from xrec.serve.live import OVERLOADED, TOO_MANY, Delta, LiveText, Model
from xrec.serve.messages import ChosenAspect, Explanation, NoExplanation, PairRequest
from xrec.serve.metrics import Recorder
from xrec.serve.problems import overloaded, problem_of_pair, refused
from xrec.storage.cache import ByteCache

logger = logging.getLogger("xrec")

_ENTRY_BYTES = 400  # estimated bytes of a kept text's key, object and links, without characters

_EVIDENCE_BYTES = 200  # the same of a chosen aspect


@dataclass(frozen=True)
class Answer:
    """A text as it is kept in memory."""

    text: str
    num_generated_tokens: int
    finish_reason: str
    model_fingerprint: str
    kind: str
    aspects: tuple[NamedEvidence, ...]


class ReadThrough:
    """Answers pairs from `lookup`, from `live_bytes` of generated texts in memory, or by `model`.

    `lookup` is None as long as there is no backfill. `catalogue` tells the items' titles, within
    which no text is cut, and the aspects that what is left names; it is None until it is read.
    `model_fingerprint` is that of the current model: texts of another model are not given from
    memory.
    """

    def __init__(self, model: Model, recorder: Recorder, live_bytes: int):
        self._model, self._recorder = model, recorder
        self._live: ByteCache[tuple[str, str, str], Answer] = ByteCache(live_bytes)
        self.lookup: ExplanationLookup | None = None
        self.catalogue: Catalogue | None = None
        self.model_fingerprint = ""

    async def explain(
        self, pairs: Sequence[PairRequest], max_words: int | None
    ) -> list[Explanation | NoExplanation]:
        """Return one answer for each pair, in order.

        All answers from the backfill are of one version. All pairs that must be generated are
        generated together. Raises ProblemError if the model
        has no room for them, ModelUnavailableError if no model answers.
        """
        lookup = self.lookup  # it may be replaced while a file is read
        answers: list[Explanation | NoExplanation | None] = [
            await self.known(pair, max_words, lookup) for pair in pairs
        ]
        missing = [place for place, answer in enumerate(answers) if answer is None]
        if missing:
            texts = await self._model.explain([pairs[place].live() for place in missing])
            for place, text in zip(missing, texts, strict=True):
                answers[place] = self.generated(pairs[place], text, max_words)
        return [answer for answer in answers if answer is not None]

    async def stream(
        self, pair: PairRequest, max_words: int | None
    ) -> AsyncGenerator[Delta | Explanation | NoExplanation, None]:
        """Yield the parts of the text while it is written, then the answer.

        An answer from the backfill or from memory comes without parts. Raises as `explain` does.
        """
        known = await self.known(pair, max_words, self.lookup)
        if known is not None:
            yield known
            return
        events = self._model.stream(pair.live())
        try:
            async for event in events:
                yield (
                    self.generated(pair, event, max_words) if isinstance(event, LiveText) else event
                )
        finally:
            await events.aclose()

    async def known(
        self, pair: PairRequest, max_words: int | None, lookup: ExplanationLookup | None
    ) -> Explanation | NoExplanation | None:
        """Return the answer from the backfill or from memory, None if neither has it."""
        if not pair.is_plain or pair.fresh:
            return None
        row = await self._backfilled(lookup, pair.user_id, pair.item_id)
        if row is not None:
            self._recorder.increase(metrics.PAIRS, {"source": "backfill"})
            answer = Answer(
                row.text,
                row.num_generated_tokens,
                row.finish_reason,
                row.model_fingerprint,
                row.kind,
                row.aspects,
            )
            return self._cut(pair, answer, max_words, is_live=False, is_cached=False)
        kept = self._live.get((self.model_fingerprint, pair.user_id, pair.item_id))
        if kept is None:
            return None
        self._recorder.increase(metrics.PAIRS, {"source": "cache"})
        return self._cut(pair, kept, max_words, is_live=True, is_cached=True)

    def generated(
        self, pair: PairRequest, text: LiveText, max_words: int | None
    ) -> Explanation | NoExplanation:
        """Return a generated text as an answer, and keep it in memory if the pair is plain.

        Raises ProblemError if the model had no room, or could never have.
        """
        if text.failed is not None:
            if text.failed.reason == OVERLOADED:
                self._recorder.increase(metrics.REFUSED, {"reason": "queue"})
                raise overloaded(text.failed.message)
            if text.failed.reason == TOO_MANY:
                raise refused(text.failed.reason, text.failed.message)
            self._recorder.increase(metrics.PAIRS, {"source": "failed"})
            self._recorder.increase(metrics.FAILED_PAIRS, {"reason": text.failed.reason})
            return NoExplanation(
                user_id=pair.user_id,
                item_id=pair.item_id,
                problem=problem_of_pair(text.failed.reason, text.failed.message),
            )
        self._record(text)
        answer = Answer(
            text.text,
            text.num_generated_tokens,
            text.finish_reason,
            text.model_fingerprint,
            text.kind,
            text.aspects,
        )
        if pair.is_plain:
            key = (text.model_fingerprint, pair.user_id, pair.item_id)
            characters = sum(len(part.encode()) for part in (*key, text.text))
            num_bytes = _ENTRY_BYTES + characters + _EVIDENCE_BYTES * len(text.aspects)
            self._live.put(key, answer, num_bytes)
            self._recorder.set(metrics.CACHE_BYTES, self._live.num_bytes, {"cache": "live"})
        return self._cut(pair, answer, max_words, is_live=True, is_cached=False)

    async def _backfilled(
        self, lookup: ExplanationLookup | None, user_id: str, item_id: str
    ) -> Explained | None:
        if lookup is None:
            return None
        is_known, row = lookup.in_memory(user_id, item_id)
        if is_known:
            return row
        try:
            row = await asyncio.to_thread(lookup.find, user_id, item_id)
        except XRecError as error:  # the storage does not answer, or a file is gone
            logger.error("the backfill cannot be read, the model is asked instead: %s", error)
            return None
        self._recorder.set(metrics.CACHE_BYTES, lookup.num_bytes, {"cache": "backfill"})
        return row

    def _cut(
        self,
        pair: PairRequest,
        answer: Answer,
        max_words: int | None,
        *,
        is_live: bool,
        is_cached: bool,
    ) -> Explanation | NoExplanation:
        text = (
            answer.text
            if max_words is None
            else cut_to_words(answer.text, max_words, self._title(pair))
        )
        if not text:
            problem = problem_of_pair(
                "no_full_sentence",
                f"no sentence of the explanation ends within max_words = {max_words}; allow more",
            )
            return NoExplanation(user_id=pair.user_id, item_id=pair.item_id, problem=problem)
        return Explanation(
            user_id=pair.user_id,
            item_id=pair.item_id,
            explanation=text,
            source="live" if is_live else "backfill",
            is_cached=is_cached,
            model_fingerprint=answer.model_fingerprint,
            num_generated_tokens=answer.num_generated_tokens,
            finish_reason=answer.finish_reason,
            kind=answer.kind,
            aspects=[ChosenAspect(**vars(evidence)) for evidence in self._aspects(answer, text)],
        )

    def _aspects(self, answer: Answer, text: str) -> Sequence[NamedEvidence]:
        """Return the aspects of an answer, each with whether `text`, which is shown, names it."""
        if text == answer.text:
            return answer.aspects
        aspects = [evidence.aspect for evidence in answer.aspects]
        names = self.catalogue.aspect_names if self.catalogue else AspectNames(aspects)
        return [
            replace(evidence, is_named=is_named)
            for evidence, is_named in zip(
                answer.aspects, names.are_named(aspects, text), strict=True
            )
        ]

    def _title(self, pair: PairRequest) -> str:
        """Return the title that the pair's text has, "" if it is not known."""
        if pair.profiles is not None and pair.profiles.item_title is not None:
            return pair.profiles.item_title
        if self.catalogue is None:
            return ""
        item = self.catalogue.dataset.item_indices.get(pair.item_id)
        return "" if item is None else self.catalogue.item_texts(item)[0]

    def _record(self, text: LiveText) -> None:
        recorder = self._recorder
        recorder.increase(metrics.PAIRS, {"source": "live"})
        recorder.increase(metrics.TOKENS, {"kind": "prompt"}, text.num_prompt_tokens)
        recorder.increase(metrics.TOKENS, {"kind": "generated"}, text.num_generated_tokens)
        recorder.observe(metrics.GENERATED_LENGTH, text.num_generated_tokens)
        recorder.observe(metrics.FIRST_TOKEN_SECONDS, text.first_token_seconds)
        recorder.observe(metrics.GENERATION_SECONDS, text.seconds)
