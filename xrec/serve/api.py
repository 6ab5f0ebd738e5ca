"""The HTTP API: routes, their OpenAPI description, server-sent events, and the page at `/`.

Every route needs a scope, unless its path is public. An application with any other route does not
start.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Send
from starlette.types import Scope as HTTPScope

from xrec.config import Scope
from xrec.errors import ConfigError, UnknownIdError
from xrec.serve.gate import Caller, is_public
from xrec.serve.messages import (
    MAX_PAIRS,
    Evidence,
    EvidenceRequest,
    Explanation,
    Explanations,
    ExplanationsRequest,
    HistoryRequest,
    ItemId,
    ItemList,
    NoExplanation,
    PairRequest,
    Problem,
    Recommendations,
    StreamRequest,
    UserId,
    UserList,
)
from xrec.serve.model import Draft
from xrec.serve.problems import (
    MEDIA_TYPE,
    ProblemError,
    answer_error,
    refused,
    unavailable,
)
from xrec.serve.read_through import ReadThrough
from xrec.version import __version__

_DESCRIPTION = """The endpoint explains why a user would like an item. It serves texts from a
finished backfill (`source: backfill`). A language model with the collaborative signal writes texts
that the backfill lacks (`source: live`). Errors are `application/problem+json` (RFC 9457). Every
response has an `X-Request-ID` header."""

_MEANINGS = {
    400: "A header is not UTF-8, or the body cannot be read.",
    401: "The key is missing or unknown.",
    403: "The key lacks the scope, or no keys are configured and the client is another machine.",
    404: "The user or item is unknown.",
    408: "The body did not arrive in time.",
    410: "The explanation of the pair was taken down.",
    413: "The body is too large.",
    414: "The path or the query is too long.",
    422: "The request is invalid, or no text for the pair passed the checks.",
    429: "Too many concurrent requests, or too many with this key; see Retry-After.",
    500: "Internal error; search the endpoint's log for the request ID.",
    503: "No model replica is available, or the endpoint is shutting down; see Retry-After.",
    504: "The request missed its deadline.",
}


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": Problem, "description": _MEANINGS[status], "content": {MEDIA_TYPE: {}}}
        for status in statuses
    }


_ABOUT_KEYS = "A key from serve.keys. Without keys, only local clients are served."
# These only describe the key in OpenAPI. `xrec.serve.gate` checks it before the route runs.
_SECURED = [
    Depends(HTTPBearer(auto_error=False, description=_ABOUT_KEYS)),
    Depends(APIKeyHeader(name="X-API-Key", auto_error=False, description=_ABOUT_KEYS)),
]
_COMMON = _responses(400, 414)
_WITH_KEY = _COMMON | _responses(401, 403, 422, 429, 503)
_WITH_BODY, _WITH_MODEL, _WITH_ID = _responses(408, 413), _responses(500, 504), _responses(404)
_LISTS = "users and items"
_Limit = Annotated[int, Query(ge=1, le=100, description="Number of entries.")]

_Result = Draft | Explanation | NoExplanation

_PAGE = Path(__file__).parent / "page_files"
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def make_api(current: Callable[[], ReadThrough]) -> FastAPI:
    """Return the application with all routes and the page, which loads no external resources.

    current: returns the read-through for the next request, or for the next pair of a stream.
    """
    app = FastAPI(
        title="xrec",
        version=__version__,
        description=_DESCRIPTION,
        separate_input_output_schemas=False,
        docs_url=None,  # these pages load external scripts, on the same origin as the user's key
        redoc_url=None,
    )
    for error_type in (RequestValidationError, HTTPException, UnknownIdError, Exception):
        app.add_exception_handler(error_type, answer_error)
    for router in (_explanations(current), _evidence(current), _users(current)):
        app.include_router(router, prefix="/v1")
    app.include_router(_operations(current))
    app.mount("/page", StaticFiles(directory=_PAGE))

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(_PAGE / "index.html", headers=_PAGE_HEADERS)

    check_scopes(app)
    return app


class _Scoped(APIRoute):
    """A route that refuses keys without the scope `needs` before it reads the body."""

    needs: ClassVar[Scope]

    async def handle(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        scope["state"]["caller"].check(self.needs)
        await super().handle(scope, receive, send)


def check_scopes(app: FastAPI) -> None:
    """Raise ConfigError for a route that needs no scope although its path is not public."""
    for route in app.routes:
        path = getattr(route, "path", "")
        if not (isinstance(route, _Scoped) or is_public(path)):
            raise ConfigError(
                f"the route {path!r} needs no scope; add it to a router with a scope, or add its "
                "path to the public ones in xrec.serve.gate",
                code="route_without_scope",
                key=path,
            )


def _router(scope: Scope, tag: str) -> APIRouter:
    """Return a router for routes that need `scope`."""

    class Route(_Scoped):
        needs = scope

    return APIRouter(route_class=Route, tags=[tag], dependencies=_SECURED, responses=_WITH_KEY)


def _explanations(current: Callable[[], ReadThrough]) -> APIRouter:
    router = _router("explain", "explanations")

    @router.post("/explanations", responses=_WITH_BODY | _WITH_MODEL)
    async def explain(http: Request, request: ExplanationsRequest) -> Explanations:
        """Explain one to 64 pairs.

        A pair that cannot be explained gets a `problem` instead; the other pairs are not affected.
        """
        pairs = await _admitted(http, request.pairs)
        answers = await current().explain(pairs, _key(http))
        return Explanations(explanations=[_as_visible(http, answer) for answer in answers])

    @router.post(
        "/explanations/stream",
        responses=_WITH_BODY | _WITH_MODEL,
        response_class=EventSourceResponse,  # comments every 15 s keep the connection open
    )
    async def stream(
        http: Request, request: Annotated[StreamRequest, Depends(_admitted_stream)]
    ) -> AsyncIterator[ServerSentEvent]:
        """Explain pairs one after another; each text is sent sentence by sentence.

        Events: `part` {index, text, is_checked} is the next part of the text of pair `index`.
        `withdrawn` {index} means that the text was refused: discard the parts sent so far. Parts of
        a new text may follow. `explanation` {index, answer} is the complete answer: the text sent
        in parts, or a problem. `problem` reports an error and ends the stream: discard the parts of
        a text without an `explanation`. `done` ends the stream after the last pair. A line that
        starts with a colon is a comment, which keeps the connection open.
        """
        try:
            for index, pair in enumerate(request.pairs):
                sent, results_of = "", current().stream(pair, request.parts, _key(http))
                async with aclosing(results_of) as results:
                    async for event in results:
                        result = event if isinstance(event, Draft) else _as_visible(http, event)
                        for name, data in _changes(sent, result):
                            yield ServerSentEvent(event=name, data={"index": index, **data})
                        sent = _text_of(result)
            yield ServerSentEvent(event="done", data={})
        except ProblemError as error:
            problem = error.problem.model_dump(exclude_none=True)
            yield ServerSentEvent(event="problem", data=problem)

    @router.get(
        "/explanations/{user_id}/{item_id}", responses=_WITH_ID | _responses(410) | _WITH_MODEL
    )
    async def explain_one(
        http: Request,
        user_id: UserId,
        item_id: ItemId,
    ) -> Explanation:
        """Explain one pair."""
        pairs = await _admitted(http, [PairRequest(user_id=user_id, item_id=item_id)])
        (found,) = await current().explain(pairs, _key(http))
        answer = _as_visible(http, found)
        if isinstance(answer, NoExplanation):
            raise refused(answer.problem.type.rpartition("/")[2], answer.problem.detail)
        return answer

    @router.get(
        "/users/{user_id:path}/recommendations", responses=_WITH_ID | _WITH_MODEL, tags=[_LISTS]
    )
    async def recommend(
        http: Request,
        user_id: UserId,
        k: Annotated[int, Query(ge=1, le=MAX_PAIRS, description="Number of items.")] = 5,
        explain: Annotated[bool, Query(description="If true, explain each item.")] = True,
    ) -> Recommendations:
        """Return the user's k best published recommendations, with explanations.

        Until recommendations are published, return the best items that the user has not seen.
        """
        http.state.caller.check_user(user_id)
        read_through = current()
        items = await read_through.recommend(user_id, k)
        if explain and items:
            pairs = [PairRequest(user_id=user_id, item_id=item.item_id) for item in items]
            pairs = await _admitted(http, pairs)
            answers = await read_through.explain(pairs, _key(http))
            for item, answer in zip(items, answers, strict=True):
                item.answer = _as_visible(http, answer)
        return Recommendations(user_id=user_id, items=items)

    @router.post("/recommendations", responses=_WITH_BODY | _WITH_ID, tags=[_LISTS])
    async def recommend_from(request: HistoryRequest) -> Recommendations:
        """Return the k best items for someone who is not in the dataset, by their history.

        They have no explanations; send the history with a pair to get one.
        """
        items = await current().recommend_from(request.history, request.k)
        return Recommendations(user_id=None, items=items)

    @router.get("/items", responses=_WITH_ID, tags=[_LISTS])
    async def items(
        text: Annotated[
            str, Query(max_length=256, description="Text that the ID or the title contains.")
        ] = "",
        after: Annotated[ItemId | None, Query(description="`next` of the previous page.")] = None,
        limit: _Limit = 20,
    ) -> ItemList:
        """Find items by a part of their ID or title.

        In a large catalog a page may be short or empty even though `next` is not null.
        """
        return await asyncio.to_thread(current().catalogue.find_items, text, limit, after)

    return router


def _evidence(current: Callable[[], ReadThrough]) -> APIRouter:
    router = _router("evidence", "explanations")

    @router.post("/evidence", responses=_WITH_BODY | _WITH_ID)
    async def evidence(http: Request, request: EvidenceRequest) -> Evidence:
        """Return the evidence behind an explanation: profiles, and similar items from history."""
        http.state.caller.check_user(request.user_id)
        read_through = current()
        user = read_through.user_index(request.user_id)
        return await asyncio.to_thread(read_through.catalogue.evidence, user, request.item_id)

    return router


def _users(current: Callable[[], ReadThrough]) -> APIRouter:
    router = _router("users", _LISTS)

    @router.get("/users")
    async def users(
        prefix: Annotated[
            str, Query(max_length=256, description="Text that the IDs start with.")
        ] = "",
        after: Annotated[
            str, Query(max_length=256, description="`next` of the previous page.")
        ] = "",
        limit: _Limit = 20,
    ) -> UserList:
        """Return user IDs in order."""
        users = await asyncio.to_thread(current().users, prefix, after, limit + 1)
        following = users[limit - 1] if len(users) > limit else None
        return UserList(users=users[:limit], next=following)

    return router


def _operations(current: Callable[[], ReadThrough]) -> APIRouter:
    router = APIRouter(
        default_response_class=PlainTextResponse, tags=["operations"], responses=_COMMON
    )

    @router.get("/healthz")
    async def alive() -> str:
        """Return 200 while this process is running."""
        return "alive\n"

    @router.get("/readyz", responses=_responses(503))
    async def ready() -> str:
        """Return 200 if a model replica was ready at the last check, a few seconds ago."""
        if not current().model.is_ready:
            raise unavailable()
        return "ready\n"

    return router


async def _admitted(http: Request, pairs: list[PairRequest]) -> list[PairRequest]:
    """Count the pairs, and return them without stored profiles if the key must not see them.

    A text in the request could make the model repeat the stored user profile. A key without the
    scope `evidence` therefore gets texts that are written without that profile. Raises ProblemError
    if the key may not ask about a user, or asked too often.
    """
    caller: Caller = http.state.caller
    for pair in pairs:
        caller.check_user(pair.user_id)
    await caller.charge(len(pairs), num_counted=1)
    if caller.may_see_history:
        return pairs
    return [pair.without_stored_profile() for pair in pairs]


async def _admitted_stream(http: Request, request: StreamRequest) -> StreamRequest:
    """Do what `_admitted` does, before the response starts."""
    return request.model_copy(update={"pairs": await _admitted(http, request.pairs)})


def _as_visible(http: Request, answer: Explanation | NoExplanation) -> Explanation | NoExplanation:
    """Return an answer as the key may see it: a user's history needs `Caller.may_see_history`."""
    may_see_history = http.state.caller.may_see_history
    if isinstance(answer, NoExplanation) or answer.people is None or may_see_history:
        return answer
    if answer.people.name is not None and answer.people.name in answer.explanation:
        message = "the text names what the user chose, which needs the scope 'evidence'"
        problem = refused("scope", message).problem
        return NoExplanation(user_id=answer.user_id, item_id=answer.item_id, problem=problem)
    return answer.model_copy(update={"people": None})


def _key(http: Request) -> str:
    return str(http.state.caller.name)


def _changes(sent: str, result: _Result) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and data of the events that turn the text `sent` into the result's text."""
    text = _text_of(result)
    if not text.startswith(sent):
        yield "withdrawn", {}
        sent = ""
    if text != sent:
        is_checked = not isinstance(result, Draft) or result.is_checked
        yield "part", {"text": text[len(sent) :], "is_checked": is_checked}
    if not isinstance(result, Draft):
        yield "explanation", {"answer": result.model_dump()}


def _text_of(result: _Result) -> str:
    if isinstance(result, Draft):
        return result.text
    return result.explanation if isinstance(result, Explanation) else ""
