"""The HTTP API: routes, their OpenAPI description, server-sent events, and the page at `/`."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles

from xrec.config.serve import Scope
from xrec.errors import UnknownIdError
from xrec.serve.feedback import FeedbackLog
from xrec.serve.messages import (
    MAX_PAIRS,
    Evidence,
    EvidenceRequest,
    Explanation,
    Explanations,
    ExplanationsRequest,
    Feedback,
    ItemId,
    ItemList,
    MaxWords,
    NoExplanation,
    PairRequest,
    Recommendations,
    StreamRequest,
    UserId,
    UserList,
)
from xrec.serve.model import Draft
from xrec.serve.problems import MEDIA_TYPE, Problem, ProblemError, answer_error, refused
from xrec.serve.read_through import ReadThrough
from xrec.version import __version__

_DESCRIPTION = """The endpoint explains why a user would like an item. It answers from a finished
backfill (`source: backfill`); what that does not hold, a language model with the collaborative
signal writes (`source: live`). Errors are `application/problem+json` (RFC 9457). Every answer has
`X-Request-ID`."""

_MEANINGS = {
    401: "The key is missing or not known.",
    403: "The key lacks the scope; or there are no keys, and this is not the endpoint's machine.",
    404: "The user or item is not known.",
    410: "The text of the single pair was taken down.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    422: "The request is not well-formed, or the text of the single pair cannot be used.",
    429: "There are too many requests at a time, or too many with this key; see Retry-After.",
    503: "No model replica answers, or events wait to be written; see Retry-After.",
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
_OF_BODY, _OF_MODEL, _OF_IDS = _responses(408, 413), _responses(503, 504), _responses(404)
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "Server-sent events.", "content": {"text/event-stream": {}}}
}

_Found = Draft | Explanation | NoExplanation

_PAGE = Path(__file__).parent / "page_files"
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def make_api(current: Callable[[], ReadThrough], feedback: FeedbackLog) -> FastAPI:
    """Return the application with all routes, and the page, which loads nothing from elsewhere.

    current: what answers the next request, or the next pair of a stream.
    """

    @asynccontextmanager
    async def writing(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(feedback.write_on())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    app = FastAPI(
        title="xrec",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=writing,
        separate_input_output_schemas=False,
        docs_url=None,  # their pages load scripts from elsewhere, beside the page that knows a key
        redoc_url=None,
    )
    for error_type in (RequestValidationError, HTTPException, UnknownIdError, Exception):
        app.add_exception_handler(error_type, answer_error)
    for router in (_explanations(current), _feedback(current, feedback), _lists(current)):
        app.include_router(
            router, prefix="/v1", dependencies=_SECURED, responses=_responses(401, 403, 422, 429)
        )
    app.include_router(_operations(current), tags=["operations"])
    app.mount("/page", StaticFiles(directory=_PAGE))

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(_PAGE / "index.html", headers=_PAGE_HEADERS)

    return app


def _explanations(current: Callable[[], ReadThrough]) -> APIRouter:
    router = APIRouter(tags=["explanations"])

    @router.post("/explanations", responses=_OF_BODY | _OF_MODEL)
    async def explain(http: Request, request: ExplanationsRequest) -> Explanations:
        """Explain one to 64 pairs.

        A pair that cannot be explained has a `problem` in its place. The other pairs are answered.
        """
        await http.state.caller.charge(len(request.pairs), num_counted=1)
        answers = await current().explain(request.pairs, request.max_words, _key(http))
        return Explanations(explanations=answers)

    @router.post(
        "/explanations/stream",
        responses=_OF_BODY | _OF_MODEL | _STREAM,
        response_class=StreamingResponse,
    )
    async def stream(http: Request, request: StreamRequest) -> Response:
        """Explain pairs one after the other; each text is sent sentence by sentence.

        Events: `part` {index, text, is_checked} has the next part of text number `index`.
        `withdrawn` {index} says that the parts of this text so far must be taken back, since it was
        refused; parts of what takes its place follow, if there are any. `explanation`
        {index, answer} has the whole answer; its text is that of the parts, or it has a problem.
        `problem` ends the stream after an error, and takes back the parts of a text without an
        `explanation`; `done` ends the stream after the last pair.
        """
        await http.state.caller.charge(len(request.pairs), num_counted=1)
        return StreamingResponse(
            _events(current, request, _key(http)),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @router.get(
        "/explanations/{user_id}/{item_id}", responses=_OF_IDS | _responses(410) | _OF_MODEL
    )
    async def explain_one(
        http: Request,
        user_id: UserId,
        item_id: ItemId,
        max_words: Annotated[MaxWords, Query()] = None,
    ) -> Explanation:
        """Explain one pair."""
        pair = PairRequest(user_id=user_id, item_id=item_id)
        (answer,) = await current().explain([pair], max_words, _key(http))
        if isinstance(answer, NoExplanation):
            raise refused(answer.problem.type.rpartition("/")[2], answer.problem.detail)
        return answer

    @router.post("/evidence", responses=_OF_BODY | _OF_IDS, dependencies=[_needs("evidence")])
    async def evidence(request: EvidenceRequest) -> Evidence:
        """Return what an explanation rests on: profiles, and near items of the user's history."""
        read_through = current()
        read_through.refuse_forgotten(request.user_id)
        ids = request.user_id, request.item_id
        return await asyncio.to_thread(read_through.catalogue.evidence, *ids)

    return router


def _feedback(current: Callable[[], ReadThrough], log: FeedbackLog) -> APIRouter:
    router = APIRouter(tags=["explanations"], dependencies=[_needs("feedback")])

    @router.post("/feedback", status_code=202, responses=_OF_BODY | _responses(503))
    async def take_feedback(event: Feedback) -> None:
        """Say what became of an explanation.

        It is noted beside the version, model and aspects that the pair is answered with now.
        """
        read_through = current()
        pair = PairRequest(user_id=event.user_id, item_id=event.item_id)
        told = event.model_dump(exclude={"user_id"}) | await read_through.facts(pair)
        log.take(read_through.published.uri, event.user_id, told)

    return router


def _needs(scope: Scope) -> Any:
    """The dependency that refuses a key without the scope."""

    def check(http: Request) -> None:
        http.state.caller.check(scope)

    return Depends(check)


def _lists(current: Callable[[], ReadThrough]) -> APIRouter:
    router = APIRouter(tags=["users and items"])

    @router.get("/users/{user_id:path}/recommendations", responses=_OF_IDS | _OF_MODEL)
    async def recommend(
        http: Request,
        user_id: UserId,
        k: Annotated[int, Query(ge=1, le=MAX_PAIRS, description="Number of items.")] = 5,
        max_words: Annotated[MaxWords, Query()] = None,
        explain: Annotated[bool, Query(description="If true, explain each item.")] = True,
    ) -> Recommendations:
        """Return the k best items that the user has not seen, with explanations."""
        read_through = current()
        read_through.refuse_forgotten(user_id)
        items = await asyncio.to_thread(read_through.catalogue.recommend, user_id, k)
        if explain and items:
            await http.state.caller.charge(len(items), num_counted=1)
            pairs = [PairRequest(user_id=user_id, item_id=item.item_id) for item in items]
            answers = await read_through.explain(pairs, max_words, _key(http))
            for item, answer in zip(items, answers, strict=True):
                item.answer = answer
        return Recommendations(user_id=user_id, items=items)

    @router.get("/users", dependencies=[_needs("users")])
    async def users(
        prefix: Annotated[
            str, Query(max_length=256, description="The ids begin with this text.")
        ] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> UserList:
        """Return ids of users, in order."""
        read_through = current()
        found = read_through.catalogue.dataset.user_ids.starting_with(prefix, limit)
        gone = read_through.published.takedowns.is_forgotten
        return UserList(users=[each for each in found if not gone(each)])

    @router.get("/items")
    async def items(
        text: Annotated[
            str, Query(max_length=256, description="The id or the title contains this text.")
        ] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> ItemList:
        """Find items by a part of their id or title."""
        found = await asyncio.to_thread(current().catalogue.find_items, text, limit)
        return ItemList(items=found)

    return router


def _operations(current: Callable[[], ReadThrough]) -> APIRouter:
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
            if await current().is_ready()
            else PlainTextResponse("not ready\n", 503, {"Retry-After": "2"})
        )

    return router


def _key(http: Request) -> str:
    return str(http.state.caller.name)


async def _events(
    current: Callable[[], ReadThrough], request: StreamRequest, key: str
) -> AsyncGenerator[str, None]:
    options = request.max_words, request.parts, key
    try:
        for index, pair in enumerate(request.pairs):
            sent = ""
            async with aclosing(current().stream(pair, *options)) as found:
                async for each in found:
                    for name, data in _changes(sent, each):
                        yield _sse(name, {"index": index, **data})
                    sent = _text_of(each)
        yield _sse("done", {})
    except ProblemError as error:
        yield _sse("problem", error.problem.model_dump(exclude_none=True))


def _changes(sent: str, found: _Found) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and data of the events that turn the text `sent` into what was found."""
    text = _text_of(found)
    if not text.startswith(sent):
        yield "withdrawn", {}
        sent = ""
    if text != sent:
        is_checked = not isinstance(found, Draft) or found.is_checked
        yield "part", {"text": text[len(sent) :], "is_checked": is_checked}
    if not isinstance(found, Draft):
        yield "explanation", {"answer": found.model_dump()}


def _text_of(found: _Found) -> str:
    if isinstance(found, Draft):
        return found.text
    return found.explanation if isinstance(found, Explanation) else ""


def _sse(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
