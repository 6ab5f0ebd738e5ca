"""An explainer whose run never ends: it takes pairs as they arrive and returns their texts.

A model replica (`xrec.serve.generator`) is this within Ray Serve.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

from xrec.adapter.pairs import Pair
from xrec.config.decoding import DecodingConfig
from xrec.errors import DataError, ModelError, UnknownIdError
from xrec.generate.engine import (
    Advance,
    Completion,
    EngineCore,
    LikelihoodParams,
    RequestParams,
    text_params,
)
from xrec.generate.engine_thread import EngineThread
from xrec.generate.explainer import Explainer
from xrec.llm.prompt import PairTexts, PromptTooLongError
from xrec.serve.live import (
    OVERLOADED,
    TOO_MANY,
    Delta,
    Failed,
    LivePair,
    LiveText,
    ModelUnavailableError,
)
from xrec.serve.new_users import NewUsers

# A byte that is no character becomes U+FFFD in the text, which has three bytes. So tokenizing a
# text can give more ids than the model generated.
_LONGER_THAN_GENERATED = 4


class LiveExplainer:
    """Explains pairs with `explainer`, whose graph has reserved rows for new users.

    At most `max_waiting` pairs wait for a row of the engine; more are refused. Raises ModelError if
    the engine's memory does not hold the longest prompt and its text.
    """

    def __init__(self, explainer: Explainer, decoding: DecodingConfig, max_waiting: int):
        builder = explainer.pairs.builder
        self._explainer, self._builder, self._decoding = explainer, builder, decoding
        self._new_users = NewUsers(explainer.dataset, explainer.graph)
        core = explainer.engine.core
        _check_memory(core, builder.prompt.max_prompt_tokens, decoding)
        self.engine = EngineThread(core)
        self._max_pending = core.max_rows + max_waiting
        self.num_pending = 0
        self.num_abandoned = 0

    @property
    def model_fingerprint(self) -> str:
        """The fingerprint of language model, adapter and graph together."""
        return self._explainer.model_fingerprint

    async def explain(self, pairs: Sequence[LivePair]) -> list[LiveText]:
        """See `xrec.serve.live.Model`."""
        if (failed := self._no_room(len(pairs))) is not None:
            return [LiveText("", failed, model_fingerprint=self.model_fingerprint) for _ in pairs]
        self.num_pending += len(pairs)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._explain(pair)) for pair in pairs]
                for task in tasks:  # also where one is cancelled before it begins
                    task.add_done_callback(self._release)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return [task.result() for task in tasks]

    async def stream(self, pair: LivePair) -> AsyncGenerator[Delta | LiveText, None]:
        """See `xrec.serve.live.Model`."""
        if (failed := self._no_room(1)) is not None:
            yield LiveText("", failed, model_fingerprint=self.model_fingerprint)
            return
        with self._counted(1):
            async with aclosing(self._events(pair, with_deltas=True)) as events:
                async for event in events:
                    yield event

    async def nll(
        self, pair: LivePair, text: str, other_users: Sequence[str]
    ) -> list[float] | Failed:
        """See `xrec.serve.live.Model`."""
        dataset = self._explainer.dataset
        most = _LONGER_THAN_GENERATED * self._decoding.max_new_tokens
        num_tokens = len(self._builder.encode_explanation(text))
        if num_tokens > most:  # it would take the model's time from all other requests
            return Failed(
                "text_too_long",
                f"explanation of {num_tokens} tokens; at most {most} are weighed, "
                "four times what the model writes",
            )
        try:
            item = dataset.item_index(pair.item_id)
            indices = [dataset.user_index(user_id) for user_id in (pair.user_id, *other_users)]
            texts = self._texts(pair, indices[0], item)
            labels = self._explainer.pairs.label_ids(text, texts.item_title)
            prompts = [self._builder.build(index, item, texts) for index in indices]
        except UnknownIdError as error:
            return Failed("unknown_id", str(error))
        except PromptTooLongError as error:
            return Failed("prompt_too_long", str(error))
        if (failed := self._no_room(len(prompts))) is not None:
            return failed
        params = LikelihoodParams(tuple(labels))
        with self._counted(len(prompts)):
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._weighed(prompt, params)) for prompt in prompts]
        found = [task.result() for task in tasks]
        return next((one for one in found if isinstance(one, Failed)), None) or [
            one for one in found if not isinstance(one, Failed)
        ]

    def _no_room(self, count: int) -> Failed | None:
        """Why `count` more prompts cannot be taken; None if they can."""
        if count > self._max_pending:
            return Failed(
                TOO_MANY,
                f"{count} pairs at a time, and at most {self._max_pending} are taken; send fewer",
            )
        if self.num_pending + count > self._max_pending:
            return Failed(
                OVERLOADED,
                f"{self.num_pending} pairs are at work or wait, at most {self._max_pending} may; "
                "ask again later",
            )
        return None

    @contextmanager
    def _counted(self, count: int) -> Iterator[None]:
        """Count prompts as pending until exit."""
        self.num_pending += count
        try:
            yield
        finally:
            self.num_pending -= count

    def _release(self, task: asyncio.Task[LiveText]) -> None:
        self.num_pending -= 1

    async def drained(self) -> None:
        """Wait until nothing is at work, then end the engine's thread."""
        while self.num_pending:
            await asyncio.sleep(0.05)
        self.engine.stop()

    async def _weighed(self, prompt: list[int], params: LikelihoodParams) -> float | Failed:
        """Return the mean negative log likelihood of a text that is given, nats per token."""
        request = _Request(asyncio.get_running_loop(), with_deltas=False)
        with self._submitted(prompt, params, request):
            completion = (await request.latest()).completion
        assert completion is not None
        if completion.failure is not None:
            return Failed(completion.failure.reason, completion.failure.message)
        assert completion.log_likelihoods is not None
        return -sum(completion.log_likelihoods) / len(completion.log_likelihoods)

    async def _explain(self, pair: LivePair) -> LiveText:
        async with aclosing(self._events(pair, with_deltas=False)) as events:
            async for event in events:
                if isinstance(event, LiveText):
                    return event
        raise AssertionError("events end with a text")

    async def _events(
        self, pair: LivePair, *, with_deltas: bool
    ) -> AsyncGenerator[Delta | LiveText, None]:
        """Yield deltas if `with_deltas`, then the text."""
        started, is_over = time.perf_counter(), False
        try:
            async with self._prompt(pair) as asked:
                if isinstance(asked, Failed):
                    is_over = True
                    yield LiveText("", asked, model_fingerprint=self.model_fingerprint)
                    return
                is_injected = pair.signal != "prompt_only"
                async with aclosing(
                    self._all_tries(asked, is_injected, started, with_deltas)
                ) as events:
                    async for event in events:
                        is_over = isinstance(event, LiveText)
                        yield event
        finally:
            self.num_abandoned += not is_over

    async def _all_tries(
        self, asked: "_Asked", is_injected: bool, started: float, with_deltas: bool
    ) -> AsyncGenerator[Delta | LiveText, None]:
        """Yield deltas, then the first text that can be used, else that of the last try."""
        tries = self._tries()
        for number, decoding in enumerate(tries, start=1):
            async with aclosing(
                self._try(
                    asked,
                    decoding,
                    is_injected,
                    started,
                    with_deltas,
                    is_last=number == len(tries),
                )
            ) as events:
                async for event in events:
                    if isinstance(event, LiveText):
                        text = event
                    else:
                        yield event
            if text.failed is None or number == len(tries):
                yield text
                return
            yield Delta("", restarts=True)

    def _tries(self) -> list[DecodingConfig]:
        """Return the decoding of the first try and, if the config has one, of the second."""
        second = self._decoding.second_try
        return [self._decoding] if second is None else [self._decoding, second]

    async def _try(
        self,
        asked: "_Asked",
        decoding: DecodingConfig,
        is_injected: bool,
        started: float,
        with_deltas: bool,
        *,
        is_last: bool,
    ) -> AsyncGenerator[Delta | LiveText, None]:
        """Yield deltas if `with_deltas`, then the text; with `is_last`, or its fallback."""
        request, shown = _Request(asyncio.get_running_loop(), with_deltas), ""
        params = text_params(decoding, is_injected=is_injected)
        with self._submitted([*asked.prompt, *asked.opening], params, request):
            while (advance := await request.latest()).completion is None:
                ids = [*asked.opening, *advance.token_ids]
                text = self._explainer.finisher.unfinished(ids, asked.texts)
                if text is not None and text.startswith(shown) and len(text) > len(shown):
                    yield Delta(text[len(shown) :])
                    shown = text
        yield self._finished(
            asked,
            advance.completion,
            decoding,
            request.first_token_at - started,
            time.perf_counter() - started,
            is_last=is_last,
        )

    @contextmanager
    def _submitted(
        self, prompt: list[int], params: RequestParams, request: "_Request"
    ) -> Iterator[None]:
        """Submit a request to the engine; what is left of it at exit is cancelled."""
        ticket = self.engine.submit(
            prompt, params, listener=request.listen, on_failure=request.fail
        )
        try:
            yield
        finally:
            self.engine.cancel(ticket)

    def _finished(
        self,
        asked: "_Asked",
        completion: Completion,
        decoding: DecodingConfig,
        first: float,
        seconds: float,
        *,
        is_last: bool,
    ) -> LiveText:
        finisher = self._explainer.finisher
        text, failure = "", completion.failure
        kind = finisher.kind(completion, asked.texts, decoding)
        if failure is None:
            text, failure = finisher.finish(completion, asked.prompt, asked.texts, decoding)
            if failure is not None and is_last:
                text, failure = finisher.fallback(asked.texts, decoding.text, failure)
                kind = "plain"
        return LiveText(
            text=text if failure is None else "",
            failed=None if failure is None else Failed(failure.reason, failure.message),
            num_prompt_tokens=len(asked.prompt),
            num_generated_tokens=len(completion.token_ids),
            finish_reason=completion.finish_reason,
            model_fingerprint=self.model_fingerprint,
            first_token_seconds=first,
            seconds=seconds,
            kind=kind,
            aspects=self._explainer.checker.evidence(text, asked.texts),
        )

    @asynccontextmanager
    async def _prompt(self, pair: LivePair) -> AsyncIterator["_Asked | Failed"]:
        """Give the prompt, or `Failed`; a new user's vector stays in its row until exit."""
        dataset = self._explainer.dataset
        try:
            item = dataset.item_index(pair.item_id)
        except UnknownIdError as error:
            yield Failed("unknown_item", str(error))
            return
        user = dataset.user_indices.get(pair.user_id)
        if user is not None and pair.history:
            yield Failed(
                "known_user",
                f"user {pair.user_id!r} is known and has a vector; leave the history out, "
                "or give another user_id",
            )
        elif user is not None:
            yield self._build(pair, user, item)
        elif not pair.history:
            yield Failed(
                "unknown_user",
                f"user {pair.user_id!r} is not known; "
                "give its history: item ids that it interacted with",
            )
        else:
            try:
                items = self._new_users.items(pair.history)
            except UnknownIdError as error:
                yield Failed("unknown_item", str(error))
                return
            except DataError as error:
                yield Failed("no_vector", str(error))
                return
            async with self._new_users.row(items) as new_user:
                yield self._build(pair, new_user, item)

    def _build(self, pair: LivePair, user: int, item: int) -> "_Asked | Failed":
        texts = self._texts(pair, user, item)
        failure = self._explainer.finisher.failure_of_any(texts, self._decoding.text)
        if failure is not None:
            return Failed(failure.reason, failure.message)
        try:
            prompt = self._builder.build(user, item, texts)
        except PromptTooLongError as error:
            return Failed("prompt_too_long", str(error))
        prompt = self._builder.build_without_tokens(texts) if pair.signal == "none" else prompt
        opening = self._explainer.finisher.opening(texts, self._decoding)
        refused = self.engine.core.refusal([*prompt, *opening], text_params(self._decoding))
        return (
            _Asked(prompt, opening, texts)
            if refused is None
            else Failed(refused.reason, refused.message)
        )

    def _texts(self, pair: LivePair, user: int, item: int) -> PairTexts:
        """Return the dataset's texts, replaced by those of the pair where it has some.

        A new user has an empty profile unless the pair has one.
        """
        is_known = user < self._explainer.dataset.num_users
        pair_of_texts = Pair(user, item) if is_known else Pair(0, item, aspects_user_index=-1)
        known = self._explainer.pairs.texts(pair_of_texts)
        given = {
            name: text
            for name in ("user_profile", "item_title", "item_profile")
            if (text := getattr(pair, name)) is not None
        }
        return replace(known if is_known else replace(known, user_profile=""), **given)


def _check_memory(core: EngineCore, max_prompt_tokens: int, decoding: DecodingConfig) -> None:
    """Raise ModelError if the engine cannot hold the longest prompt and its text."""
    refused = core.refusal([0] * max_prompt_tokens, text_params(decoding))
    if refused is not None:
        raise ModelError(
            f"the longest prompt (prompt.max_prompt_tokens={max_prompt_tokens}) cannot be "
            f"completed: {refused.message}"
        )


@dataclass(frozen=True)
class _Asked:
    """A prompt to complete, the beginning of its text, and the texts that it is made of."""

    prompt: list[int]
    opening: list[int]
    texts: PairTexts


@dataclass(eq=False)
class _Request:
    """Hands the events of a request from the engine's thread to the event loop.

    Without `with_deltas` only the end of the text is handed on.
    """

    loop: asyncio.AbstractEventLoop
    with_deltas: bool
    first_token_at: float = 0.0

    def __post_init__(self) -> None:
        self._events: asyncio.Queue[Advance | BaseException] = asyncio.Queue()

    def listen(self, advance: Advance) -> None:
        self.first_token_at = self.first_token_at or time.perf_counter()
        if self.with_deltas or advance.completion is not None:
            self._send(advance)

    def fail(self, error: BaseException) -> None:
        self._send(error)

    async def latest(self) -> Advance:
        """Wait for an event and return the newest one; each holds the whole text so far.

        Raises ModelUnavailableError if the engine failed.
        """
        event = await self._events.get()
        while not self._events.empty():
            event = self._events.get_nowait()
        if isinstance(event, BaseException):
            raise ModelUnavailableError(f"the model failed: {event}") from event
        return event

    def _send(self, event: Advance | BaseException) -> None:
        send: Callable[[Advance | BaseException], None] = self._events.put_nowait
        try:
            self.loop.call_soon_threadsafe(send, event)
        except RuntimeError:
            assert self.loop.is_closed(), "the loop is closed only when the process ends"
