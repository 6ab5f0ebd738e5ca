"""Language models that a test scripts: an endpoint of the OpenAI API, and one without HTTP.

The endpoint is slow, busy, broken or silent as the test's `behave` decides, and records requests.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from xrec.config import SamplingConfig
from xrec.errors import Failure
from xrec.text import Prompt, Reply, Usage

COST = Usage(10, 2, 1)
LONG = '{"word": "a very long wo'
_FAILURES = {
    "late": Failure("timeout", "late"),
    "refused": Failure("bad_request", "400 no such model"),
}


@dataclass(frozen=True)
class Answer:
    """What the endpoint does with a request.

    Attributes:
        text: The model's reply.
        status: If it is not 200, `error` is sent in place of a reply.
        body: Sent as it is, in place of a reply.
        is_cut: Whether the connection ends in the middle.
        num_tokens: Of the prompt and of the reply.
    """

    text: str = "{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    error: dict[str, Any] = field(default_factory=lambda: {"message": "no"})
    body: str | None = None
    delay_seconds: float = 0.0
    is_cut: bool = False
    num_tokens: tuple[int, int] = (11, 7)


@dataclass(frozen=True)
class Asked:
    """A request: the words of its last message, how often they came before, body, headers."""

    words: str
    num_before: int
    body: dict[str, Any]
    headers: dict[str, str]


@dataclass
class StubEndpoint:
    """The endpoint's behavior, and what it observed.

    Attributes:
        most_at_once: The largest number of requests that were under way together.
        files: The content of each uploaded and written file.
        batches: The batches, in order; each ends when it is looked at, unless `holds_batches`.
        ended_as: The status with which they end.
    """

    behave: Callable[[Asked], Answer]
    model: str = "stub"
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    num_at_once: int = 0
    most_at_once: int = 0
    files: dict[str, str] = field(default_factory=dict)
    batches: list[dict[str, Any]] = field(default_factory=list)
    ended_as: str = "completed"
    holds_batches: bool = False


@contextmanager
def stub_endpoint(behave: Callable[[Asked], Answer]) -> Iterator[StubEndpoint]:
    stub = StubEndpoint(behave)
    server = uvicorn.Server(
        uvicorn.Config(_app(stub), host="127.0.0.1", port=0, log_level="critical", lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    stub.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield stub
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


def _app(stub: StubEndpoint) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Response:
        body = await request.json()
        words = body["messages"][-1]["content"]
        num_before = sum(each.words == words for each in stub.asked)
        asked = Asked(words, num_before, body, dict(request.headers))
        stub.asked.append(asked)
        stub.num_at_once += 1
        stub.most_at_once = max(stub.most_at_once, stub.num_at_once)
        try:
            answer = stub.behave(asked)
            await _wait(answer.delay_seconds, request)
            return _response(asked, answer)
        finally:
            stub.num_at_once -= 1

    @app.post("/v1/files")
    async def upload(request: Request) -> dict[str, Any]:
        lines = (await request.body()).decode().splitlines()
        stub.files[name := f"file-{len(stub.files)}"] = "\n".join(
            line for line in lines if line.startswith('{"custom_id"')
        )
        return {"id": name, "object": "file", "purpose": "batch"}

    @app.get("/v1/files/{name}/content")
    async def content(name: str) -> Response:
        return Response(stub.files[name])

    @app.post("/v1/batches")
    async def create(request: Request) -> dict[str, Any]:
        batch = {**await request.json(), "id": f"batch-{len(stub.batches)}", "object": "batch"}
        stub.batches.append({**batch, "status": "validating"})
        return stub.batches[-1]

    @app.get("/v1/batches")
    async def listed() -> dict[str, Any]:
        return {"object": "list", "data": stub.batches, "has_more": False}

    @app.get("/v1/batches/{name}")
    async def retrieve(name: str) -> dict[str, Any]:
        (batch,) = (each for each in stub.batches if each["id"] == name)
        if batch["status"] == "validating" and not stub.holds_batches:
            _end(stub, batch)
        return batch

    return app


def _end(stub: StubEndpoint, batch: dict[str, Any]) -> None:
    """Answer a batch's lines: what succeeds is in its output file, and the rest in the other.

    An answer with a body is a line as it is, and one with status 0 is of a request that expired.
    """
    output, errors = list[str](), list[str]()
    for line in stub.files[batch["input_file_id"]].splitlines():
        row = json.loads(line)
        words = row["body"]["messages"][-1]["content"]
        asked = Asked(words, sum(each.words == words for each in stub.asked), row["body"], {})
        stub.asked.append(asked)
        answer, made = stub.behave(asked), {"custom_id": row["custom_id"], "error": None}
        if answer.body is not None:
            output.append(answer.body)
        elif answer.status == 200:
            response = {"status_code": 200, "body": _completion(asked, answer)}
            output.append(json.dumps({**made, "response": response}))
        elif answer.status == 0:
            expired = {"code": "batch_expired", "message": "not executed before the batch expired"}
            errors.append(json.dumps({**made, "response": None, "error": expired}))
        else:
            response = {"status_code": answer.status, "body": {"error": answer.error}}
            errors.append(json.dumps({**made, "response": response}))
    batch["status"] = stub.ended_as
    for name, lines in (("output_file_id", output), ("error_file_id", errors)):
        if lines and stub.ended_as != "failed":
            stub.files[f"{name}-{batch['id']}"] = "\n".join(lines)
            batch[name] = f"{name}-{batch['id']}"
    if stub.ended_as == "failed":
        reason = {"code": "model_not_found", "message": "no such model"}
        batch["errors"] = {"object": "list", "data": [reason]}


async def _wait(seconds: float, request: Request) -> None:
    """Wait, but not for a client that has gone."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not await request.is_disconnected():
        await asyncio.sleep(min(left, 0.02))


def _response(asked: Asked, answer: Answer) -> Response:
    if answer.status != 200:
        return JSONResponse(
            {"error": answer.error}, status_code=answer.status, headers=answer.headers
        )
    body = answer.body if answer.body is not None else json.dumps(_completion(asked, answer))
    if answer.is_cut:
        return StreamingResponse(_half(body), headers={"Content-Length": str(len(body.encode()))})
    return Response(body, media_type="application/json", headers=answer.headers)


async def _half(body: str) -> AsyncIterator[bytes]:
    yield body.encode()[: len(body) // 2]
    raise ConnectionResetError


def _completion(asked: Asked, answer: Answer) -> dict[str, Any]:
    shown, said = answer.num_tokens
    message = {"role": "assistant", "content": answer.text}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": asked.body["model"],
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": shown, "completion_tokens": said, "total_tokens": shown + said},
    }


class ScriptedModel:
    """A LanguageModel that replies with what `answer` returns, to the second of two prompts first.

    The text `late` is a timeout, `refused` a bad request, and LONG is cut off. Each reply has the
    usage COST.

    Attributes:
        asked: The prompts that it answered, in order.
    """

    def __init__(self, answer: Callable[[Prompt[Any], SamplingConfig], str]):
        self._answer = answer
        self.asked: list[tuple[Prompt[Any], SamplingConfig]] = []

    @property
    def words(self) -> list[str]:
        """The first message of each prompt."""
        return [prompt.messages[0].content for prompt, _ in self.asked]

    def write(
        self, prompts: Iterable[Prompt[Any]], sampling: SamplingConfig
    ) -> Iterator[Reply[Any]]:
        waiting = enumerate(prompts)
        while two := list(islice(waiting, 2)):
            for index, prompt in reversed(two):
                text = self._answer(prompt, sampling)
                self.asked.append((prompt, sampling))
                yield Reply(index, text, COST, is_cut=text == LONG, failure=_FAILURES.get(text))
