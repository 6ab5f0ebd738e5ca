"""Explain pairs as they arrive; a model replica (`xrec.serve.app.Generator`) wraps this."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace

from pydantic import SecretStr

from xrec.adapter.pairs import Pair
from xrec.backfill.lookup import Explained
from xrec.config import DecodingConfig, ServeConfig, share_of_key
from xrec.data import NamedEvidence
from xrec.errors import DataError, Failure, ModelError, UnknownIdError
from xrec.generate.engine import Advance, Completion, text_params
from xrec.generate.explainer import Asked, Explainer, Explanation
from xrec.generate.shared_engine import EngineRequest
from xrec.llm.prompt import PromptTooLongError
from xrec.serve.catalogue import HistoryVectors
from xrec.serve.messages import PairRequest, Parts
from xrec.serve.metrics import Metrics
from xrec.serve.model import (
    OVER_BUDGET,
    OVERLOADED,
    Draft,
    Event,
    PairError,
    unknown_user,
)
from xrec.serve.money import DailyMoney, Reserved
from xrec.serve.problems import fault
from xrec.storage import open_location
from xrec.text.writers import load_writer

logger = logging.getLogger("xrec")

MAX_WAITING_PAIRS = 256
"""Maximum waiting pairs per replica; further requests get a 429 with Retry-After.

With several keys, each key may only use a part of a replica (`share_of_key`).
"""


class LiveExplainer:
    """Explains pairs with `explainer`, whose graph, if any, has reserved rows for new users.

    At most `max_waiting_pairs` pairs wait for a row of the engine; more are refused. money: what
    the texts may cost per day; None for no limit. Raises ModelError if the longest prompt and its
    text do not fit in the engine's memory.
    """

    def __init__(
        self,
        explainer: Explainer,
        decoding: DecodingConfig,
        metrics: Metrics,
        keys: Sized,
        max_waiting_pairs: int = MAX_WAITING_PAIRS,
        money: DailyMoney | None = None,
    ):
        self.explainer, self._decoding, self._metrics = explainer, decoding, metrics
        self._builder, self._money = explainer.pairs.builder, money
        dataset, graph = explainer.dataset, explainer.graph
        self._free_rows: list[int] = []  # one per pending pair
        if graph is not None:
            self._graph, self._histories = graph, HistoryVectors(dataset, graph)
            self._free_rows = list(range(dataset.num_users, len(graph.users)))
        self.engine, core = explainer.engine, explainer.engine.core
        longest = self._builder.prompt.max_prompt_tokens
        failure = core.refusal([0] * longest, text_params(decoding))
        if failure is not None:
            raise ModelError(
                f"the longest prompt (prompt.max_prompt_tokens={longest}) cannot be completed: "
                f"{failure.message}",
                code="prompt_too_long",
                key="prompt.max_prompt_tokens",
                saw=longest,
            )
        self._max_pending = core.max_rows + max_waiting_pairs
        self._max_per_key = share_of_key(self._max_pending, keys)
        self._pending: Counter[str] = Counter()
        self._preparing = ThreadPoolExecutor(1, "xrec-prepare")

    @property
    def num_pending(self) -> int:
        """Number of pairs that are being explained or wait."""
        return self._pending.total()

    async def explain(
        self, pairs: Sequence[PairRequest], key: str = ""
    ) -> list[Explained | PairError]:
        """See `xrec.serve.model.ModelHandle`."""
        if (refused := self._refusal(key, len(pairs))) is not None:
            return [refused] * len(pairs)
        self._count(key, len(pairs))
        tasks = [asyncio.ensure_future(self._explain_one(pair)) for pair in pairs]
        for task in tasks:  # the callback also runs if a task is canceled before it starts
            task.add_done_callback(lambda _: self._count(key, -1))
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # those still running if one raised
                task.cancel()

    async def _explain_one(self, pair: PairRequest) -> Explained | PairError:
        events = self._events(pair, None)
        (text,) = [event async for event in events if not isinstance(event, Draft)]
        return text

    async def stream(
        self, pair: PairRequest, parts: Parts, key: str = ""
    ) -> AsyncGenerator[Event, None]:
        """See `xrec.serve.model.ModelHandle`."""
        if (refused := self._refusal(key, 1)) is not None:
            yield refused
            return
        self._count(key, 1)
        try:
            async with aclosing(self._events(pair, parts)) as events:
                async for event in events:
                    yield event
        finally:
            self._count(key, -1)

    def _refusal(self, key: str, count: int) -> PairError | None:
        """Return why `count` more pairs from the key are refused; None if there is room."""
        for pending, most, whose in (
            (self.num_pending, self._max_pending, ""),
            (self._pending[key], self._max_per_key, " from this key"),
        ):
            if pending + count > most:
                message = f"{pending} pairs{whose} are pending, and at most {most} may be"
                return PairError(OVERLOADED, f"{message}; retry later")
        return None

    def _count(self, key: str, change: int) -> None:
        self._pending[key] += change
        self._metrics.model_pairs.set(self.num_pending)

    async def _events(self, pair: PairRequest, parts: Parts | None) -> AsyncGenerator[Event, None]:
        """Yield drafts, if `parts` asks for them, then the text or an error."""
        started = time.perf_counter()
        try:
            with self._user(pair) as user:
                loop = asyncio.get_running_loop()
                asked = await loop.run_in_executor(self._preparing, self._prepare, user, pair)
                async with aclosing(self._write(asked, started, parts)) as events:
                    async for event in events:
                        yield event
        except PairError as failed:
            yield failed
        except UnknownIdError as error:
            yield PairError(error.reason, str(error))
        except PromptTooLongError as error:
            yield PairError("prompt_too_long", str(error))
        except DataError as error:
            yield PairError("no_vector", str(error))
        except (asyncio.CancelledError, GeneratorExit):
            self._metrics.abandoned.inc()
            raise
        except ModelError:  # the engine failed, so this replica has to be replaced
            raise
        except Exception as error:
            logger.error("a pair failed: %s", type(error).__name__, exc_info=error)
            yield PairError("bug", fault().problem.detail)

    @contextmanager
    def _user(self, pair: PairRequest) -> Iterator[int]:
        """Yield the user's index; a new user gets a row of the graph, if any, until exit.

        Raises PairError for an unknown user without a history, and for a known one with a history.
        """
        user = self.explainer.dataset.user_ids.find(pair.user_id)
        if user is None and not pair.history:
            raise unknown_user()
        if user is not None and pair.history:
            raise PairError(
                "known_user",
                f"user {pair.user_id!r} is known and has a vector; remove the history, "
                "or use another user_id",
            )
        if user is not None:
            yield user
        elif self.explainer.graph is None:
            yield self.explainer.dataset.num_users
        else:
            row = self._free_rows.pop()
            try:
                yield row
            finally:
                self._free_rows.append(row)

    def _prepare(self, user: int, pair: PairRequest) -> Asked:
        """Return the engine's request for a pair, whose own texts replace the dataset's.

        A new user's profile is empty; without a graph, a history has no effect. This tokenizes what
        the client sent, so it runs in a separate thread, one pair at a time. Raises PairError,
        UnknownIdError, DataError or PromptTooLongError if the engine cannot complete the request.
        """
        explainer = self.explainer
        item = explainer.dataset.item_index(pair.item_id)
        if user < explainer.dataset.num_users:
            texts = explainer.pairs.texts(Pair(user, item))
        else:
            texts = explainer.pairs.texts(Pair(0, item, aspects_user_index=-1))
            texts = replace(texts, user_profile="")
            if explainer.graph is None:
                user = 0  # only an index of a vector
            else:
                self._graph.users[user] = self._histories.vector(pair.history)
        texts = replace(texts, **pair.own_texts)
        finisher, rules = explainer.finisher, self._decoding.text
        if (refused := finisher.failure_of_any(texts, rules)) is not None:
            _raise(finisher.fallback(texts, rules, refused)[1])
        asked = Asked(finisher, self._builder.build(user, item, texts), texts, self._decoding)
        _raise(self.engine.core.refusal(asked.prompt_ids, asked.params))
        return asked

    async def _write(
        self, asked: Asked, started: float, parts: Parts | None
    ) -> AsyncGenerator[Draft | Explained, None]:
        """Yield drafts, then the text; raise PairError if it is refused.

        Texts are decoded and checked in threads, so that neither the event loop nor the engine
        waits.
        """
        is_checked, advances = parts == "checked", _Advances(with_drafts=bool(parts))
        request = EngineRequest(asked.prompt_ids, asked.params, advances.take)

        def read(ids: list[int], seen: str) -> tuple[str, bool]:
            text = asked.whole_sentences(ids) if is_checked else asked.unfinished(ids)
            is_longer = len(text) > len(seen)
            return text, is_longer and (not is_checked or asked.passes(text, ids))

        def finished(completion: Completion) -> tuple[Explanation, tuple[NamedEvidence, ...]]:
            """Return the explanation and its evidence, marked where the text names it."""
            made = asked.explanation(0, completion)
            return made, self.explainer.checker.evidence(made.text, asked.texts)

        reserved = await self._reserve(asked)
        with self.engine.at_work([request]):
            seen = ""
            while True:
                advance = await advances.latest()
                if (completion := advance.completion) is None:
                    text, is_draft = await asyncio.to_thread(read, advance.token_ids, seen)
                    seen = max(seen, text, key=len)
                    if is_draft:
                        yield Draft(text, is_checked)
                    continue
                self._settle(reserved, asked, completion)
                if (params := await asyncio.to_thread(asked.again, completion)) is None:
                    break
                reserved, seen = await self._reserve(asked), ""
                self.engine.resubmit(request, params)
        made, evidence = await asyncio.to_thread(finished, completion)
        _raise(made.failure)
        metrics = self._metrics
        metrics.tokens.inc(made.num_prompt_tokens, {"kind": "prompt"})
        if made.num_generated_tokens:  # Ray's counters refuse zeros
            metrics.tokens.inc(made.num_generated_tokens, {"kind": "generated"})
        metrics.first_token_seconds.observe(advances.first_token_at - started)
        metrics.generation_seconds.observe(time.perf_counter() - started)
        yield Explained(
            text=made.text,
            num_prompt_tokens=made.num_prompt_tokens,
            num_generated_tokens=made.num_generated_tokens,
            finish_reason=made.finish_reason,
            model_fingerprint=self.explainer.model_fingerprint,
            kind=made.kind,
            aspects=evidence,
        )

    async def _reserve(self, asked: Asked) -> Reserved | None:
        """Set aside the most that a text may cost; raise PairError if there is less.

        Returns None if there is no limit. A text that nobody waits for any longer costs that much,
        as an endpoint still writes it.
        """
        if self._money is None:
            return None
        money = self._money.cost(len(asked.prompt_ids), asked.params.max_new_tokens)
        if (reserved := await asyncio.to_thread(self._money.reserve, money)) is None:
            message = "today's money for live texts (serve.max_money_per_day) is used up"
            raise PairError(OVER_BUDGET, f"{message}; retry after midnight UTC")
        return reserved

    def _settle(self, reserved: Reserved | None, asked: Asked, completion: Completion) -> None:
        if self._money is not None and reserved is not None:
            counted = completion.num_tokens or (len(asked.prompt_ids), len(completion.token_ids))
            spent = 0.0 if completion.failure is not None else self._money.cost(*counted)
            self._money.settle(reserved, spent)


class _Advances:
    """The newest advance of a text: the engine's thread sets it, and the event loop waits for it.

    with_drafts: False to pass on only the end of the text.
    first_token_at: time of the first token, by the performance counter; 0 before it.
    """

    def __init__(self, *, with_drafts: bool):
        self.first_token_at = 0.0
        self._with_drafts, self._loop = with_drafts, asyncio.get_running_loop()
        self._is_new = asyncio.Event()
        self._newest: Advance | Exception

    async def latest(self) -> Advance:
        """Wait for an advance and return the newest one, which has the whole text so far.

        Raises ModelError if the engine failed.
        """
        await self._is_new.wait()
        self._is_new.clear()
        if isinstance(self._newest, Exception):
            raise ModelError(
                f"the model failed: {self._newest}", code="engine_failed"
            ) from self._newest
        return self._newest

    def take(self, event: Advance | Exception) -> None:
        """See `EngineRequest.tell`."""
        self.first_token_at = self.first_token_at or time.perf_counter()
        if isinstance(event, Advance) and event.completion is None and not self._with_drafts:
            return
        self._newest = event
        with suppress(RuntimeError):  # the loop is closed only when the process ends
            self._loop.call_soon_threadsafe(self._is_new.set)


def load_live(
    config: ServeConfig,
    metrics: Metrics,
    key: SecretStr | None = None,
    max_waiting_pairs: int = MAX_WAITING_PAIRS,
    like: LiveExplainer | None = None,
) -> LiveExplainer:
    """Load the live explainer; raise what `load_writer` raises.

    This is slow, so call it in a thread. It also indexes all titles and aspects. Otherwise the
    first request would do that on the event loop, and all others would wait.

    key: of the endpoint, if one writes. like: an explainer of other artifacts, whose language model
    is used too.
    """
    explainer = load_writer(
        config,
        config.models.device,
        key,
        num_reserved_users=config.texts_at_once + max_waiting_pairs,
        is_streaming=True,
        like=None if like is None else like.explainer,
    )
    explainer.checker.aspects.build()
    money, most = None, config.max_money_per_day
    if most is not None:
        folder = open_location(config.workspace, config.storage) / "live-money"
        money = DailyMoney(folder, most, config.prices)
    keys = config.keys
    return LiveExplainer(explainer, config.decoding, metrics, keys, max_waiting_pairs, money)


def _raise(failure: Failure | None) -> None:
    if failure is not None:
        raise PairError(failure.reason, failure.message)
