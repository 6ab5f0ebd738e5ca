"""Requests in batch files: the OpenAI API's /v1/batches, which cost less and take up to a day.

Requests are collected until there are enough, or no more come. Before a batch is created, the IDs
of its requests are written to `<folder>/<nonce>`, and the nonce is in the batch's metadata. So a
process that starts after a death finds the batches in progress and waits for them.
"""

import asyncio
import hashlib
import json
import uuid
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

import httpx
import openai
from openai.types import Batch
from openai.types.chat import ChatCompletion

from xrec.errors import EndpointError, Failure
from xrec.storage import Location

_EXPIRED = "batch_expired"
_ENDED = ("completed", "failed", "expired", "cancelled")
QUIET_SECONDS = 2.0
POLL_SECONDS = 10.0
_URL: Final = "/v1/chat/completions"


class Batches:
    """Sends requests in batches of at most `most`; for use in one event loop."""

    def __init__(self, client: openai.AsyncOpenAI, folder: Location, most: int):
        self._client, self._folder, self._most = client, folder, most
        self._futures: dict[str, asyncio.Future[Any]] = {}  # by ID of the request
        self._waiting: dict[str, Mapping[str, Any]] = {}  # requests in no batch yet
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._adopted: asyncio.Task[None] | None = None

    async def complete(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the line about a request in its batch's output or error file.

        Raises openai.APIError as the client does, and EndpointError if the batch is refused.
        """
        if self._adopted is None:
            self._adopted = asyncio.create_task(self._adopt())
        await self._adopted
        body = {**fields, **fields["extra_body"]}
        del body["extra_body"]
        data = json.dumps(body, sort_keys=True).encode()
        request_id = hashlib.blake2b(data, digest_size=16).hexdigest()
        if request_id not in self._futures:
            self._futures[request_id] = asyncio.get_running_loop().create_future()
            self._waiting[request_id] = body
            self._send(later=len(self._waiting) < self._most)
        row: Mapping[str, Any] = await asyncio.shield(self._futures[request_id])
        return row

    def _send(self, *, later: bool = False) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if later:
            self._timer = asyncio.get_running_loop().call_later(QUIET_SECONDS, self._send)
            return
        bodies, self._waiting = self._waiting, {}
        if bodies:
            self._start(bodies, self._run(bodies))

    def _start(self, request_ids: Iterable[str], work: Coroutine[Any, Any, None]) -> None:
        """Do the work of a batch; its requests get the error, if there is one."""
        futures = [self._futures[request_id] for request_id in request_ids]

        def end(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            for future in futures:
                if error is not None and not future.done():
                    future.set_exception(error)
                    future.exception()  # not all of them are awaited

        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(end)

    async def _run(self, bodies: Mapping[str, Mapping[str, Any]]) -> None:
        nonce = uuid.uuid4().hex
        listed = "\n".join(bodies).encode()
        await asyncio.to_thread((self._folder / nonce).write_bytes, listed)
        lines = [
            json.dumps({"custom_id": request_id, "method": "POST", "url": _URL, "body": body})
            for request_id, body in bodies.items()
        ]
        data = ("requests.jsonl", "\n".join(lines).encode())
        file = await self._client.files.create(file=data, purpose="batch")
        batch = await self._client.batches.create(
            input_file_id=file.id,
            endpoint=_URL,
            completion_window="24h",
            metadata={"xrec": nonce},
        )
        await self._finish(batch, list(bodies), nonce)

    async def _adopt(self) -> None:
        """Wait for the batches of processes that died, rather than ask for the same again."""
        nonces = [*await asyncio.to_thread(self._folder.sizes)]
        if not nonces:
            return
        async for batch in await self._client.batches.list(limit=100):
            nonce = (batch.metadata or {}).get("xrec", "")
            if nonce in nonces:
                nonces.remove(nonce)
                listed = await asyncio.to_thread((self._folder / nonce).read_bytes)
                request_ids = listed.decode().splitlines()
                for request_id in request_ids:
                    self._futures[request_id] = asyncio.get_running_loop().create_future()
                self._start(request_ids, self._finish(batch, request_ids, nonce))
        for nonce in nonces:  # never created, so nobody paid for it
            await asyncio.to_thread((self._folder / nonce).delete)

    async def _finish(self, batch: Batch, request_ids: list[str], nonce: str) -> None:
        """Wait for the end of a batch, and pass on its answers."""
        while batch.status not in _ENDED:
            await asyncio.sleep(POLL_SECONDS)
            batch = await self._client.batches.retrieve(batch.id)
        rows: dict[str, Any] = {}
        for file_id in (batch.output_file_id, batch.error_file_id):
            content = await self._client.files.content(file_id) if file_id else None
            for line in content.text.splitlines() if content else ():
                with suppress(ValueError, TypeError, KeyError):
                    row = json.loads(line)
                    rows[row["custom_id"]] = row
        await asyncio.to_thread((self._folder / nonce).delete)
        if batch.status == "failed":
            errors = batch.errors.data if batch.errors and batch.errors.data else []
            problems = "; ".join(f"{error.code}: {error.message}" for error in errors[:3])
            raise EndpointError(
                f"batch {batch.id} was refused ({problems or 'no reason was given'}); check model "
                "and extra, and rerun",
                code="batch_refused",
                key="model",
                saw=batch.id,
            )
        message = f"the batch ended ({batch.status}) without an answer to this request"
        unanswered = {"error": {"code": _EXPIRED, "message": message}}
        for request_id in request_ids:
            future = self._futures.pop(request_id)
            if not future.done():
                future.set_result(rows.get(request_id, unanswered))


def completion_of(row: Mapping[str, Any]) -> ChatCompletion | Failure:
    """Return the completion in a line of a batch's files, or why there is none.

    Raises openai.APIStatusError for a request that failed, ValueError for an invalid line.
    """
    response, error = row.get("response") or {}, row.get("error") or {}
    if error.get("code") == _EXPIRED:
        return Failure("expired", str(error.get("message", "the batch expired")))
    status, body = response.get("status_code", 500), response.get("body")
    if status == 200 and isinstance(body, dict):
        return ChatCompletion.construct(**body)
    if status == 200:
        raise ValueError("expected a chat completion in the line of the batch")
    told = (body.get("error") if isinstance(body, dict) else None) or error
    answer: Any = httpx.Response(status, request=httpx.Request("POST", _URL))
    raise openai.APIStatusError(str(told), response=answer, body=told)
