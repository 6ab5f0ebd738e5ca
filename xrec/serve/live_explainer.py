"""An explainer whose run never ends: it takes pairs as they arrive and returns their texts.

A model replica (`xrec.serve.app.Generator`) is this within Ray Serve.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, nullcontext, suppress
from dataclasses import replace

import numpy as np
import torch

from xrec.adapter.pairs import Pair
from xrec.backfill.lookup import Explained
from xrec.config import DecodingConfig, ServeConfig, share_of_key
from xrec.data import Dataset, NamedEvidence
from xrec.errors import DataError, ModelError, UnknownIdError
from xrec.generate.engine import Advance, Completion, Failure, text_params
from xrec.generate.explainer import Asked, Explainer, Explanation
from xrec.generate.loading import load_explainer, sources_of
from xrec.generate.shared_engine import EngineRequest
from xrec.graph.artifact import GraphEmbeddings
from xrec.graph.fold_in import FoldIn
from xrec.llm.prompt import PromptTooLongError
from xrec.serve.messages import PairRequest, Parts
from xrec.serve.metrics import Metrics
from xrec.serve.model import OVERLOADED, Draft, Event, PairError, fault_of_pair, unknown_user

MAX_WAITING_PAIRS = 256
"""Of a replica; a request beyond them is answered with 429 and Retry-After. One of several keys may
have a part of what is at work and waits (`share_of_key`), at whichever frontend it asks."""


class LiveExplainer:
    """Explains pairs with `explainer`, whose graph has reserved rows for new users.

    At most `max_waiting_pairs` pairs wait for a row of the engine; more are refused. Raises
    ModelError if the engine's memory does not hold the longest prompt and its text.
    """

    def __init__(
        self,
        explainer: Explainer,
        decoding: DecodingConfig,
        metrics: Metrics,
        keys: Sized,
        max_waiting_pairs: int = MAX_WAITING_PAIRS,
    ):
        self._explainer, self._decoding, self._metrics = explainer, decoding, metrics
        self._builder = explainer.pairs.builder
        self._new_users = NewUsers(explainer.dataset, explainer.graph)
        self.engine, core = explainer.engine, explainer.engine.core
        longest = self._builder.prompt.max_prompt_tokens
        refused = core.refusal([0] * longest, text_params(decoding))
        if refused is not None:
            raise ModelError(
                f"the longest prompt (prompt.max_prompt_tokens={longest}) cannot be completed: "
                f"{refused.message}",
                code="prompt_too_long",
                key="prompt.max_prompt_tokens",
                saw=longest,
            )
        self._max_pending = core.max_rows + max_waiting_pairs
        self._max_of_key = share_of_key(self._max_pending, keys)
        self._pending: Counter[str] = Counter()
        self._preparing = ThreadPoolExecutor(1, "xrec-prepare")

    @property
    def model_fingerprint(self) -> str:
        """The fingerprint of language model, adapter and graph together."""
        return self._explainer.model_fingerprint

    @property
    def num_pending(self) -> int:
        """How many pairs are at work, or wait."""
        return self._pending.total()

    async def explain(
        self, pairs: Sequence[PairRequest], key: str = ""
    ) -> list[Explained | PairError]:
        """See `xrec.serve.model.ModelHandle`."""
        if (refused := self._refusal(key, len(pairs))) is not None:
            return [refused] * len(pairs)
        self._count(key, len(pairs))
        tasks = [asyncio.ensure_future(self._explain_one(pair)) for pair in pairs]
        for task in tasks:  # also where one is cancelled before it begins
            task.add_done_callback(lambda _: self._count(key, -1))
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # those left if one raised
                task.cancel()

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
        """Why `count` more pairs of the key cannot be taken; None if they can."""
        for pending, most, whose in (
            (self.num_pending, self._max_pending, ""),
            (self._pending[key], self._max_of_key, " of this key"),
        ):
            if pending + count > most:
                told = f"{pending} pairs{whose} are at work or wait, at most {most} may"
                return PairError(OVERLOADED, f"{told}; ask again later")
        return None

    def _count(self, key: str, change: int) -> None:
        self._pending[key] += change
        self._metrics.model_pairs.set(self.num_pending)

    async def _explain_one(self, pair: PairRequest) -> Explained | PairError:
        events = self._events(pair, None)
        (text,) = [event async for event in events if not isinstance(event, Draft)]
        return text

    async def _events(self, pair: PairRequest, parts: Parts | None) -> AsyncGenerator[Event, None]:
        """Yield drafts of such `parts`, if any, then the text, or why there is none."""
        started = time.perf_counter()
        try:
            with self._user(pair) as user:
                loop = asyncio.get_running_loop()
                asked = await loop.run_in_executor(self._preparing, self._asked, user, pair)
                async with aclosing(self._written(asked, started, parts)) as events:
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
        except ModelError:  # the engine is broken, and so is this replica
            raise
        except Exception as error:  # noqa: BLE001  it is logged
            yield fault_of_pair(error)

    @contextmanager
    def _user(self, pair: PairRequest) -> Iterator[int]:
        """Give the user's index; a new user has a row of the graph until exit.

        Raises PairError for a user who cannot be explained to.
        """
        user = self._explainer.dataset.user_ids.find(pair.user_id)
        if user is None and not pair.history:
            raise unknown_user()
        if user is not None and pair.history:
            raise PairError(
                "known_user",
                f"user {pair.user_id!r} is known and has a vector; leave the history out, "
                "or give another user_id",
            )
        with self._new_users.row() if user is None else nullcontext(user) as index:
            yield index

    def _asked(self, user: int, pair: PairRequest) -> Asked:
        """Return what the engine is asked for a pair, whose own texts replace the dataset's.

        A new user's profile is empty. What clients send is looked up, split and tokenized here, so
        this runs in a thread of its own, one pair at a time. Raises PairError, UnknownIdError,
        DataError or PromptTooLongError if the engine could not answer.
        """
        item = self._explainer.dataset.item_index(pair.item_id)
        is_known = user < self._explainer.dataset.num_users
        if not is_known:
            self._new_users.set_vector(user, pair.history)
        of = Pair(user, item) if is_known else Pair(0, item, aspects_user_index=-1)
        known = self._explainer.pairs.texts(of)
        texts = replace(known if is_known else replace(known, user_profile=""), **pair.own_texts)
        _raise(self._explainer.finisher.failure_of_any(texts, self._decoding.text))
        prompt = self._builder.build(user, item, texts)
        asked = Asked(self._explainer.finisher, prompt, texts, self._decoding)
        _raise(self.engine.core.refusal(asked.prompt_ids, asked.params))
        return asked

    async def _written(
        self, asked: Asked, started: float, parts: Parts | None
    ) -> AsyncGenerator[Draft | Explained, None]:
        """Yield drafts, then the text; raises PairError if it cannot be used.

        Texts are read and checked in threads, so that neither the event loop nor the engine waits.
        """
        is_checked = parts == "checked"
        advances = _Advances(with_drafts=bool(parts))
        request = EngineRequest(asked.prompt_ids, asked.params, advances.take)

        def read(ids: list[int], seen: str) -> tuple[str, bool]:
            text = asked.whole_sentences(ids) if is_checked else asked.unfinished(ids)
            is_longer = len(text) > len(seen)
            return text, is_longer and (not is_checked or asked.passes(text, ids))

        with self.engine.at_work([request]):
            seen = ""
            while True:
                advance = await advances.latest()
                if (completion := advance.completion) is None:
                    text, is_draft = await asyncio.to_thread(read, advance.token_ids, seen)
                    seen = max(seen, text, key=len)
                    if is_draft:
                        yield Draft(text, is_checked)
                elif (params := await asyncio.to_thread(asked.again, completion)) is not None:
                    seen = ""
                    self.engine.resubmit(request, params)
                else:
                    break
        found, evidence = await asyncio.to_thread(self._explanation, asked, completion)
        _raise(found.failure)
        self._record(found, advances.first_token_at - started, time.perf_counter() - started)
        yield Explained(
            text=found.text,
            num_prompt_tokens=found.num_prompt_tokens,
            num_generated_tokens=found.num_generated_tokens,
            finish_reason=found.finish_reason,
            model_fingerprint=self.model_fingerprint,
            kind=found.kind,
            aspects=evidence,
        )

    def _explanation(
        self, asked: Asked, completion: Completion
    ) -> tuple[Explanation, tuple[NamedEvidence, ...]]:
        """Return a pair's explanation, and the evidence that it names."""
        found = asked.explanation(0, completion)
        return found, self._explainer.checker.evidence(found.text, asked.texts)

    def _record(self, found: Explanation, first_token_seconds: float, seconds: float) -> None:
        metrics = self._metrics
        metrics.tokens.inc(found.num_prompt_tokens, {"kind": "prompt"})
        if found.num_generated_tokens:  # Ray counts no zeros
            metrics.tokens.inc(found.num_generated_tokens, {"kind": "generated"})
        metrics.first_token_seconds.observe(first_token_seconds)
        metrics.generation_seconds.observe(seconds)


class NewUsers:
    """Vectors of users that only have a history, computed from the items in a request.

    It lends the rows of `graph.users` from `dataset.num_users` on, and writes to them.
    """

    def __init__(self, dataset: Dataset, graph: GraphEmbeddings):
        self._dataset, self._users = dataset, graph.users
        trained = dataset.interaction_edges("train")
        users = graph.users[: dataset.num_users]
        self._fold_in = FoldIn.of(users, graph.items, torch.from_numpy(trained))
        self._has_vector = np.bincount(trained[1], minlength=dataset.num_items) > 0
        self._free = list(range(dataset.num_users, len(graph.users)))

    @contextmanager
    def row(self) -> Iterator[int]:
        """Give a user index until exit; there are as many as pairs that may be at work or wait."""
        index = self._free.pop()
        try:
            yield index
        finally:
            self._free.append(index)

    def set_vector(self, index: int, history: Sequence[str]) -> None:
        """Give a row the vector of a user with these items.

        Items without training interactions do not count. Raises UnknownIdError for an unknown item,
        DataError if none counts.
        """
        indices = {self._dataset.item_index(item_id) for item_id in history}
        items = sorted(index for index in indices if self._has_vector[index])
        if not items:
            raise DataError(
                f"none of the history's {len(indices)} items has training interactions; "
                "name an item that has",
                code="no_trained_item",
                key="history",
                saw=len(indices),
            )
        self._users[index] = self._fold_in.vector(torch.tensor(items))


class _Advances:
    """How far a text is: the engine's thread says it, and the event loop waits for it.

    Unless `with_drafts`, only the end of the text is handed on. `first_token_at` is by the
    performance counter, and 0 before the first token.
    """

    def __init__(self, *, with_drafts: bool):
        self.first_token_at = 0.0
        self._with_drafts, self._loop = with_drafts, asyncio.get_running_loop()
        self._is_new = asyncio.Event()
        self._newest: Advance | Exception

    async def latest(self) -> Advance:
        """Wait for an advance and return the newest one; each holds the whole text so far.

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
    config: ServeConfig, metrics: Metrics, max_waiting_pairs: int = MAX_WAITING_PAIRS
) -> LiveExplainer:
    """Return the live explainer of `config`; raise what `load_explainer` raises.

    This takes long, so it runs beside the event loop. All titles and aspects are read here too: the
    first request would otherwise do that on the event loop, and all others would wait.
    """
    explainer = load_explainer(
        sources_of(config),
        device=config.models.device,
        engine=config.engine,
        num_reserved_users=config.engine.max_rows + max_waiting_pairs,
        is_streaming=True,
    )
    explainer.checker.aspects.build()
    keys = config.keys
    return LiveExplainer(explainer, config.decoding, metrics, keys, max_waiting_pairs)


def _raise(failure: Failure | None) -> None:
    if failure is not None:
        raise PairError(failure.reason, failure.message)
