"""An engine whose model is behind an endpoint with the OpenAI API.

It implements `EngineCore`, so prompts are built and texts are finished, checked, and drawn again
as with every other engine. Its token IDs stand for words (`WordTokenizer`): a prompt is decoded
into the message that is sent, and the reply is encoded. There are no collaborative tokens.
"""

import queue
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import SecretStr

from xrec.config import EndpointConfig
from xrec.errors import Failure
from xrec.generate.engine import (
    Advance,
    Completion,
    EngineReport,
    RequestParams,
    TextParams,
    failed,
)
from xrec.storage import Location
from xrec.text.messages import Message, Reply, without_thoughts
from xrec.text.reply_store import ReplyStore

_WORD = re.compile(r"\s?\w+|\s|[^\w\s]")
_STEP_SECONDS = 0.05


class WordTokenizer:
    """A tokenizer of words, in place of the endpoint's own; it loses nothing.

    A word, with the space before it, gets an ID when it is first seen, so IDs differ between
    processes. After `max_words` of them, about 150 MB, a new word is spelled: each character is one
    token, whose ID is negative. It has what `PromptBuilder` uses of a transformers tokenizer.
    """

    bos_token, eos_token_id = None, 0
    chat_template = "a message is sent as it is"
    added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012  none, as in transformers

    def __init__(self, max_words: int = 2**20):
        self._ids, self._words, self._max_words = {"": 0}, [""], max_words
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: object) -> "WordTokenizer":
        return self

    def __len__(self) -> int:
        return 2**31 - 1

    def __call__(self, text: str, **_options: object) -> dict[str, list[int]]:
        """Return the IDs of a text's words."""
        return {"input_ids": [id_ for word in _WORD.findall(text) for id_ in self._ids_of(word)]}

    def decode(self, token_ids: Sequence[int], **_options: object) -> str:
        """Return the text of some IDs."""
        return "".join(self._words[id_] if id_ >= 0 else chr(~id_) for id_ in token_ids)

    def apply_chat_template(self, messages: Sequence[dict[str, str]], **_options: object) -> str:
        """Return the content of the messages."""
        return "\n\n".join(message["content"] for message in messages)

    def _ids_of(self, word: str) -> list[int]:
        if (known := self._ids.get(word)) is not None:
            return [known]
        with self._lock:
            if word not in self._ids:
                if len(self._ids) > self._max_words:
                    return [~ord(character) for character in word]
                self._words.append(word)  # before others can see its ID
                self._ids[word] = len(self._words) - 1
            return [self._ids[word]]


@dataclass(frozen=True)
class _Sent:
    """A request whose reply is on its way; `key` is None if another one asked for it."""

    future: Future[Reply[Any]]
    user_id: str
    key: str | None


class EndpointCore:
    """An `EngineCore` over an endpoint; at most `concurrency` requests wait for it at a time.

    It keeps no prompt, but counts the texts of each, so that another text is another request to the
    store. Words cannot be banned, so another text for a prompt differs by its temperature and seed
    only. `step` raises EndpointError if no request can get a reply.

    replies: where replies are kept; None to keep none. batches: see `Endpoint`.
    """

    def __init__(
        self,
        config: EndpointConfig,
        key: SecretStr | None,
        tokenizer: WordTokenizer,
        replies: ReplyStore | None = None,
        batches: Location | None = None,
    ):
        from xrec.text.endpoint import Endpoint  # other engines do not need openai

        self.report, self.max_rows, self.replies = EngineReport(), config.concurrency, replies
        self._tokenizer, self._endpoint = tokenizer, Endpoint(config, key, batches)
        self._num_requests = 0
        self._waiting: dict[int, tuple[str, TextParams]] = {}  # the oldest first
        self._running: dict[int, _Sent] = {}
        self._ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._refused: list[Advance] = []
        self._num_texts: dict[int, int] = {}  # written before a request's, for the same prompt

    @property
    def is_idle(self) -> bool:
        return not (self._running or self._waiting or self._refused)

    @property
    def num_rows(self) -> int:
        return len(self._running)

    def refusal(self, prompt: Sequence[int], params: RequestParams) -> Failure | None:
        if not prompt:
            return Failure("empty_prompt", "the prompt is empty; give at least one token")
        if isinstance(params, TextParams) and params.constraint is None:
            return None
        return Failure(
            "unsupported_request", "an endpoint only writes texts without a grammar; use an engine"
        )

    def add(self, prompt: Sequence[int], params: RequestParams, after: int | None = None) -> int:
        self._num_requests += 1
        if (failure := self.refusal(prompt, params)) is not None:
            self._refused.append(failed(self._num_requests, failure))
        else:
            assert isinstance(params, TextParams)
            if after is not None:
                self._num_texts[self._num_requests] = self._num_texts.pop(after, 0) + 1
            self._waiting[self._num_requests] = self._tokenizer.decode(prompt), params
            self._send_waiting()
        return self._num_requests

    def step(self) -> list[Advance]:
        """Return the ends of requests; wait a moment if none has ended."""
        began_at = time.monotonic()
        self._send_waiting()
        advances, self._refused = self._refused, []
        with suppress(queue.Empty):
            request_id = None if advances else self._ended.get(timeout=_STEP_SECONDS)
            while True:
                if request_id is not None and request_id in self._running:
                    advances.append(self._advance(request_id))
                request_id = self._ended.get_nowait()
        self._send_waiting()
        self.report.total_seconds += time.monotonic() - began_at
        return advances

    def cancel(self, request_id: int) -> None:
        """Drop a request; the endpoint may still write, and charge for, its text."""
        self._waiting.pop(request_id, None)
        self._num_texts.pop(request_id, None)
        sent = self._running.pop(request_id, None)
        if sent is not None and sent.key is not None:
            sent.future.cancel()
            self._settle(sent, CancelledError("it was canceled"))

    def _send_waiting(self) -> None:
        while self._waiting and len(self._running) < self.max_rows:
            request_id = next(iter(self._waiting))
            text, params = self._waiting.pop(request_id)
            fields = {
                "max_completion_tokens": params.max_new_tokens,
                "temperature": params.temperature,
                "top_p": params.top_p if params.top_p < 1 else None,
                "seed": params.seed,
            }
            key, future = None, None
            if self.replies is not None:
                key = self.replies.key(text, fields, self._num_texts.get(request_id, 0))
                if (future := self.replies.claim(key)) is not None:
                    key = None
            future = future or self._endpoint.send(request_id, [Message("user", text)], **fields)
            self._running[request_id] = _Sent(future, params.user_id, key)
            future.add_done_callback(partial(self._end, request_id))

    def _end(self, request_id: int, _: Future[Reply[Any]]) -> None:
        self._ended.put(request_id)

    def _settle(self, sent: _Sent, reply: Reply[Any] | BaseException) -> None:
        if self.replies is not None and sent.key is not None:
            self.replies.settle(sent.key, [sent.user_id], reply)

    def _advance(self, request_id: int) -> Advance:
        sent = self._running.pop(request_id)
        try:
            reply = sent.future.result()
        except Exception as error:
            self._settle(sent, error)
            raise
        self._settle(sent, reply)
        usage = reply.usage
        self.report.num_prompt_tokens += usage.num_prompt_tokens
        self.report.num_computed_prompt_tokens += usage.num_prompt_tokens
        self.report.num_decoded_tokens += usage.num_reply_tokens
        if reply.failure is not None:
            return failed(request_id, reply.failure)
        token_ids = self._tokenizer(without_thoughts(reply.raw))["input_ids"]
        completion = Completion(
            request_id,
            token_ids,
            "length" if reply.is_cut else "stop",
            num_tokens=(usage.num_prompt_tokens, usage.num_reply_tokens),
        )
        return Advance(request_id, token_ids, completion)
