"""The HTTP API: routes, their OpenAPI description, server-sent events, and the page at `/`."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles

from xrec.serve.messages import (
    MAX_PAIRS,
    Evidence,
    EvidenceRequest,
    Explanation,
    Explanations,
    ExplanationsRequest,
    ItemId,
    ItemList,
    MaxWords,
    NoExplanation,
    PairRequest,
    Recommendations,
    UserId,
    UserList,
)
from xrec.serve.model import Delta
from xrec.serve.problems import MEDIA_TYPE, Problem, ProblemError, answer_error, refused
from xrec.serve.read_through import ReadThrough
from xrec.version import __version__

_DESCRIPTION = """The endpoint explains why a user would like an item. It answers from a finished
backfill (`source: backfill`); what that does not hold, a language model with the collaborative
signal writes (`source: live`). Errors are `application/problem+json` (RFC 9457). Every answer has
`X-Request-ID`."""

_MEANINGS = {
    401: "The key is missing or not known.",
    403: "Without configured keys this endpoint answers only its own machine.",
    404: "The user or item is not known.",
    413: "The body is too large.",
    422: "The request is not well-formed, or the text of the single pair cannot be used.",
    429: "There are too many requests at a time, or too many with this key; see Retry-After.",
    503: "No model replica answers; see Retry-After.",
    504: "The request was not answered within the deadline.",
}


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": Problem, "description": _MEANINGS[status], "content": {MEDIA_TYPE: {}}}
        for status in statuses
    }


_KEY = HTTPBearer(
    auto_error=False,
    description="A key of security.keys. An endpoint without keys answers its own machine.",
)
_SECURED = [Depends(_KEY)]
"""Puts the key into the OpenAPI description. `xrec.serve.gate` checks it, before the route runs."""
_OF_BODY, _OF_MODEL, _OF_IDS = _responses(413), _responses(503, 504), _responses(404)
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "Server-sent events.", "content": {"text/event-stream": {}}}
}

_PAGE = Path(__file__).parent / "page_files"
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def make_api(read_through: ReadThrough) -> FastAPI:
    """Return the application with all routes, and the page, which loads nothing from elsewhere."""
    app = FastAPI(
        title="xrec",
        version=__version__,
        description=_DESCRIPTION,
        separate_input_output_schemas=False,
    )
    for error_type in (RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(error_type, answer_error)
    for router in (_explanations(read_through), _lists(read_through)):
        app.include_router(
            router, prefix="/v1", dependencies=_SECURED, responses=_responses(401, 403, 422, 429)
        )
    app.include_router(_operations(read_through), tags=["operations"])
    app.mount("/page", StaticFiles(directory=_PAGE))

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(_PAGE / "index.html", headers=_PAGE_HEADERS)

    return app


def _explanations(read_through: ReadThrough) -> APIRouter:
    router = APIRouter(tags=["explanations"])

    @router.post("/explanations", responses=_OF_BODY | _OF_MODEL)
    async def explain(request: ExplanationsRequest) -> Explanations:
        """Explain one to 64 pairs.

        A pair that cannot be explained has a `problem` in its place. The other pairs are answered.
        """
        answers = await read_through.explain(request.pairs, request.max_words)
        return Explanations(explanations=answers)

    @router.post(
        "/explanations/stream",
        responses=_OF_BODY | _OF_MODEL | _STREAM,
        response_class=StreamingResponse,
    )
    async def stream(request: ExplanationsRequest) -> Response:
        """Explain pairs one after the other; each text is sent while it is written.

        Events: `token` {index, text} has the next part of text number `index`. `restart` {index}
        says that this text begins anew. `explanation` {index, answer} has the whole answer, which
        may be shorter than the parts before it. `problem` ends the stream after an error, `done`
        ends it after the last pair.
        """
        return StreamingResponse(
            _events(read_through, request.pairs, request.max_words),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @router.get("/explanations/{user_id}/{item_id}", responses=_OF_IDS | _OF_MODEL)
    async def explain_one(
        user_id: UserId,
        item_id: ItemId,
        max_words: Annotated[MaxWords, Query()] = None,
    ) -> Explanation:
        """Explain one pair."""
        pair = PairRequest(user_id=user_id, item_id=item_id)
        (answer,) = await read_through.explain([pair], max_words)
        if isinstance(answer, NoExplanation):
            raise refused(answer.problem.type.rpartition("/")[2], answer.problem.detail)
        return answer

    @router.post("/evidence", responses=_OF_BODY | _OF_IDS)
    async def evidence(request: EvidenceRequest) -> Evidence:
        """Return what an explanation rests on: profiles, and near items of the user's history."""
        ids = request.user_id, request.item_id
        return await asyncio.to_thread(read_through.catalogue.evidence, *ids)

    return router


def _lists(read_through: ReadThrough) -> APIRouter:
    router = APIRouter(tags=["users and items"])

    @router.get("/users/{user_id:path}/recommendations", responses=_OF_IDS | _OF_MODEL)
    async def recommend(
        user_id: UserId,
        k: Annotated[int, Query(ge=1, le=MAX_PAIRS, description="Number of items.")] = 5,
        max_words: Annotated[MaxWords, Query()] = None,
        explain: Annotated[bool, Query(description="If true, explain each item.")] = True,
    ) -> Recommendations:
        """Return the k best items that the user has not seen, with explanations."""
        items = await asyncio.to_thread(read_through.catalogue.recommend, user_id, k)
        if explain and items:
            pairs = [PairRequest(user_id=user_id, item_id=item.item_id) for item in items]
            answers = await read_through.explain(pairs, max_words)
            for item, answer in zip(items, answers, strict=True):
                item.answer = answer
        return Recommendations(user_id=user_id, items=items)

    @router.get("/users")
    async def users(
        prefix: Annotated[
            str, Query(max_length=256, description="The ids begin with this text.")
        ] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> UserList:
        """Return ids of users, in order."""
        return UserList(users=read_through.catalogue.find_users(prefix, limit))

    @router.get("/items")
    async def items(
        text: Annotated[
            str, Query(max_length=256, description="The id or the title contains this text.")
        ] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> ItemList:
        """Find items by a part of their id or title."""
        found = await asyncio.to_thread(read_through.catalogue.find_items, text, limit)
        return ItemList(items=found)

    return router


def _operations(read_through: ReadThrough) -> APIRouter:
    router = APIRouter(default_response_class=PlainTextResponse)

    @router.get("/healthz")
    async def alive() -> str:
        """Answer 200 as long as this process runs."""
        return "alive\n"

    @router.get("/readyz", responses={503: {"description": "Not ready.", "model": Problem}})
    async def ready() -> Response:
        """Answer 200 once the model is loaded and explains."""
        return (
            PlainTextResponse("ready\n")
            if await read_through.is_ready()
            else PlainTextResponse("not ready\n", 503, {"Retry-After": "2"})
        )

    return router


async def _events(
    read_through: ReadThrough, pairs: Sequence[PairRequest], max_words: int | None
) -> AsyncGenerator[str, None]:
    try:
        for index, pair in enumerate(pairs):
            async with aclosing(read_through.stream(pair, max_words)) as events:
                async for event in events:
                    yield _event(index, event)
        yield _sse("done", {})
    except ProblemError as error:
        yield _sse("problem", error.problem.model_dump(exclude_none=True))


def _event(index: int, event: Delta | Explanation | NoExplanation) -> str:
    if not isinstance(event, Delta):
        return _sse("explanation", {"index": index, "answer": event.model_dump(exclude_none=True)})
    if event.restarts:
        return _sse("restart", {"index": index})
    return _sse("token", {"index": index, "text": event.text})


def _sse(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
