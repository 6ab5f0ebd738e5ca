"""An explainer whose run never ends: it takes pairs as they arrive and returns their texts.

A model replica (`xrec.serve.generator`) is this within Ray Serve.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any

from xrec.adapter.pairs import Pair
from xrec.config.decoding import DecodingConfig
from xrec.errors import DataError, ModelError, UnknownIdError
from xrec.generate.engine import Failure, text_params
from xrec.generate.explainer import Asked, Explainer
from xrec.llm.prompt import PairTexts, PromptTooLongError
from xrec.serve.engine_thread import EngineThread
from xrec.serve.messages import PairRequest
from xrec.serve.model import OVERLOADED, TOO_MANY, Delta, LiveText, PairError
from xrec.serve.new_users import NewUsers

MAX_WAITING_PAIRS = 256
"""Of a replica; a request beyond them is answered with 429 and Retry-After."""


class LiveExplainer:
    """Explains pairs with `explainer`, whose graph has reserved rows for new users.

    At most `MAX_WAITING_PAIRS` pairs wait for a row of the engine; more are refused. Raises
    ModelError if the engine's memory does not hold the longest prompt and its text.
    """

    def __init__(self, explainer: Explainer, decoding: DecodingConfig):
        self._explainer, self._decoding = explainer, decoding
        self._builder = explainer.pairs.builder
        self._new_users = NewUsers(explainer.dataset, explainer.graph)
        core = explainer.engine.core
        longest = self._builder.prompt.max_prompt_tokens
        refused = core.refusal([0] * longest, text_params(decoding))
        if refused is not None:
            raise ModelError(
                f"the longest prompt (prompt.max_prompt_tokens={longest}) cannot be completed: "
                f"{refused.message}"
            )
        self.engine = EngineThread(core)
        self._max_pending = core.max_rows + MAX_WAITING_PAIRS
        self.num_pending = 0
        self.num_abandoned = 0

    @property
    def model_fingerprint(self) -> str:
        """The fingerprint of language model, adapter and graph together."""
        return self._explainer.model_fingerprint

    async def explain(self, pairs: Sequence[PairRequest]) -> list[LiveText | PairError]:
        """See `xrec.serve.model.ModelHandle`."""
        try:
            self._check_room(len(pairs))
        except PairError as failed:
            return [failed] * len(pairs)
        self.num_pending += len(pairs)
        tasks = [asyncio.ensure_future(self._text(pair)) for pair in pairs]
        for task in tasks:  # also where one is cancelled before it begins
            task.add_done_callback(self._release)
        return await asyncio.gather(*tasks)

    async def stream(self, pair: PairRequest) -> AsyncGenerator[Delta | LiveText | PairError, None]:
        """See `xrec.serve.model.ModelHandle`."""
        try:
            self._check_room(1)
        except PairError as failed:
            yield failed
            return
        self.num_pending += 1
        try:
            async with aclosing(self._events(pair, with_deltas=True)) as events:
                async for event in events:
                    yield event
        finally:
            self.num_pending -= 1

    async def drained(self) -> None:
        """Wait until nothing is at work, then end the engine's thread."""
        while self.num_pending:
            await asyncio.sleep(0.05)
        self.engine.stop()

    def _check_room(self, count: int) -> None:
        """Raise PairError if `count` more prompts cannot be taken."""
        if count > self._max_pending:
            raise PairError(
                TOO_MANY,
                f"{count} pairs at a time, and at most {self._max_pending} are taken; send fewer",
            )
        if self.num_pending + count > self._max_pending:
            raise PairError(
                OVERLOADED,
                f"{self.num_pending} pairs are at work or wait, at most {self._max_pending} may; "
                "ask again later",
            )

    def _release(self, task: asyncio.Task[Any]) -> None:
        self.num_pending -= 1

    async def _text(self, pair: PairRequest) -> LiveText | PairError:
        async with aclosing(self._events(pair, with_deltas=False)) as events:
            async for event in events:
                text = event
        assert not isinstance(text, Delta)
        return text

    async def _events(
        self, pair: PairRequest, *, with_deltas: bool
    ) -> AsyncGenerator[Delta | LiveText | PairError, None]:
        """Yield deltas if `with_deltas`, then the text, or why there is none."""
        started = time.perf_counter()
        try:
            with self._indices(pair) as indices:
                asked = self._asked(*indices, pair.own_texts)
                async with aclosing(self._written(asked, started, with_deltas)) as events:
                    async for event in events:
                        yield event
        except PairError as failed:
            yield failed
        except (asyncio.CancelledError, GeneratorExit):
            self.num_abandoned += 1
            raise

    @contextmanager
    def _indices(self, pair: PairRequest) -> Iterator[tuple[int, int]]:
        """Give the user's index and the item's; that of a new user has its vector until exit.

        Raises PairError for a pair that cannot be explained.
        """
        with _failing():
            item = self._explainer.dataset.item_index(pair.item_id)
        user = self._explainer.dataset.user_indices.get(pair.user_id)
        if user is None:
            with self._new_users.row(self._history(pair)) as new_user:
                yield new_user, item
        elif pair.history:
            raise PairError(
                "known_user",
                f"user {pair.user_id!r} is known and has a vector; leave the history out, "
                "or give another user_id",
            )
        else:
            yield user, item

    def _history(self, pair: PairRequest) -> list[int]:
        """Return the items whose vectors give that of a new user."""
        if not pair.history:
            raise PairError(
                "unknown_user",
                f"user {pair.user_id!r} is not known; "
                "give its history: item ids that it interacted with",
            )
        with _failing():
            return self._new_users.items(pair.history)

    def _asked(self, user: int, item: int, own_texts: dict[str, Any]) -> Asked:
        """Return what the engine is asked for a pair; raises PairError if it could not answer."""
        texts = self._texts(user, item, own_texts)
        _raise(self._explainer.finisher.failure_of_any(texts, self._decoding.text))
        with _failing():
            prompt = self._builder.build(user, item, texts)
        asked = self._explainer.asked(prompt, texts, self._decoding)
        _raise(self.engine.core.refusal(asked.prompt_ids, asked.params))
        return asked

    def _texts(self, user: int, item: int, own_texts: dict[str, Any]) -> PairTexts:
        """Return the dataset's texts, replaced by `own_texts`; a new user's profile is empty."""
        is_known = user < self._explainer.dataset.num_users
        pair = Pair(user, item) if is_known else Pair(0, item, aspects_user_index=-1)
        known = self._explainer.pairs.texts(pair)
        return replace(known if is_known else replace(known, user_profile=""), **own_texts)

    async def _written(
        self, asked: Asked, started: float, with_deltas: bool
    ) -> AsyncGenerator[Delta | LiveText, None]:
        """Yield deltas, then the text; raises PairError if it cannot be used."""
        ids: list[int] = []
        shown = ""
        with self.engine.request(
            asked.prompt_ids, asked.params, with_deltas=with_deltas
        ) as request:
            while (advance := await request.latest()).completion is None:
                if advance.token_ids[: len(ids)] != ids:
                    shown = ""
                    yield Delta("", restarts=True)
                ids = advance.token_ids
                text = self._explainer.finisher.unfinished([*asked.opening, *ids], asked.texts)
                if text is not None and text.startswith(shown) and len(text) > len(shown):
                    yield Delta(text[len(shown) :])
                    shown = text
        found = asked.explanation(0, advance.completion)
        _raise(found.failure)
        yield LiveText(
            text=found.text,
            num_prompt_tokens=found.num_prompt_tokens,
            num_generated_tokens=found.num_generated_tokens,
            finish_reason=found.finish_reason,
            model_fingerprint=self.model_fingerprint,
            kind=found.kind,
            aspects=self._explainer.checker.evidence(found.text, asked.texts),
            first_token_seconds=request.first_token_at - started,
            seconds=time.perf_counter() - started,
        )


def _raise(failure: Failure | None) -> None:
    if failure is not None:
        raise PairError(failure.reason, failure.message)


@contextmanager
def _failing() -> Iterator[None]:
    """Raise PairError for what is wrong with a pair."""
    try:
        yield
    except UnknownIdError as error:
        raise PairError("unknown_item", str(error)) from error
    except PromptTooLongError as error:
        raise PairError("prompt_too_long", str(error)) from error
    except DataError as error:
        raise PairError("no_vector", str(error)) from error
