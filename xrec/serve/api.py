"""The HTTP API: routes, their OpenAPI description and server-sent events."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query
from fastapi.security import HTTPBearer
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from xrec.serve.live import Delta, Signal
from xrec.serve.messages import (
    MAX_PAIRS,
    Evidence,
    EvidenceRequest,
    Explanation,
    Explanations,
    ExplanationsRequest,
    ItemEntry,
    ItemId,
    ItemList,
    MaxWords,
    NoExplanation,
    PairRequest,
    Recommendations,
    UserId,
    UserList,
)
from xrec.serve.page import add_page
from xrec.serve.problems import MEDIA_TYPE, Problem, ProblemError, install_handlers, refused
from xrec.serve.service import Service
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


_ASKED = _responses(401, 403, 413, 422, 429, 503, 504)
_ASKED_BY_ID = _responses(401, 403, 404, 422, 429, 503, 504)
_KEY = HTTPBearer(
    auto_error=False,
    description="A key of security.keys. An endpoint without keys answers its own machine.",
)
_SECURED = [Depends(_KEY)]
"""Puts the key into the OpenAPI description. `xrec.serve.gate` checks it, before the route runs."""


def make_api(service: Service) -> FastAPI:
    """Return the application with all routes."""
    app = FastAPI(
        title="xrec",
        version=__version__,
        description=_DESCRIPTION,
        separate_input_output_schemas=False,
    )
    install_handlers(app)
    _add_explanations(app, service)
    _add_evidence(app, service)
    _add_recommendations(app, service)
    _add_lists(app, service)
    _add_operations(app, service)
    add_page(app)
    return app


def _add_explanations(app: FastAPI, service: Service) -> None:
    @app.post("/v1/explanations", responses=_ASKED, dependencies=_SECURED, tags=["explanations"])
    async def explain(request: ExplanationsRequest) -> Explanations:
        """Explain one to 64 pairs.

        A pair that cannot be explained has a `problem` in its place. The other pairs are answered.
        """
        return Explanations(explanations=await service.explain(request.pairs, request.max_words))

    @app.post(
        "/v1/explanations/stream",
        responses={
            **_ASKED,
            200: {"description": "Server-sent events.", "content": {"text/event-stream": {}}},
        },
        response_class=StreamingResponse,
        dependencies=_SECURED,
        tags=["explanations"],
    )
    async def stream(request: ExplanationsRequest) -> Response:
        """Explain pairs one after the other; each text is sent while it is written.

        Events: `token` {index, text} has the next part of text number `index`. `restart` {index}
        says that this text begins anew. `explanation` {index, answer} has the whole answer, which
        may be shorter than the parts before it. `problem` ends the stream after an error, `done`
        ends it after the last pair.
        """
        events = _events(service, request.pairs, request.max_words)
        return StreamingResponse(
            events,
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @app.get(
        "/v1/explanations/{user_id}/{item_id}",
        responses=_ASKED_BY_ID,
        dependencies=_SECURED,
        tags=["explanations"],
    )
    async def explain_one(
        user_id: UserId,
        item_id: ItemId,
        max_words: Annotated[MaxWords, Query()] = None,
        collaborative: Signal = "full",
    ) -> Explanation:
        """Explain one pair."""
        (answer,) = await service.explain(
            [PairRequest(user_id=user_id, item_id=item_id, collaborative=collaborative)], max_words
        )
        if isinstance(answer, NoExplanation):
            raise refused(answer.problem.type.rpartition("/")[2], answer.problem.detail)
        return answer


def _add_evidence(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/evidence",
        responses={**_ASKED, **_responses(404)},
        dependencies=_SECURED,
        tags=["explanations"],
    )
    async def evidence(request: EvidenceRequest) -> Evidence:
        """Return what an explanation rests on.

        That is the profiles, the nearest items of the user's history, and how likely the text is
        with the vectors of other users.
        """
        return await service.evidence(request.user_id, request.item_id, request.explanation)


def _add_recommendations(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/users/{user_id}/recommendations",
        responses=_ASKED_BY_ID,
        dependencies=_SECURED,
        tags=["users and items"],
    )
    async def recommend(
        user_id: UserId,
        k: Annotated[int, Query(ge=1, le=MAX_PAIRS, description="Number of items.")] = 5,
        max_words: Annotated[MaxWords, Query()] = None,
        explain: Annotated[bool, Query(description="If true, explain each item.")] = True,
    ) -> Recommendations:
        """Return the k best items that the user has not seen, with explanations."""
        return Recommendations(
            user_id=user_id, items=await service.recommend(user_id, k, max_words, explain)
        )


def _add_lists(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/users",
        responses=_responses(401, 403, 422, 429),
        dependencies=_SECURED,
        tags=["users and items"],
    )
    async def users(
        prefix: Annotated[
            str, Query(max_length=256, description="The ids begin with this text.")
        ] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> UserList:
        """Return ids of users, in order."""
        return UserList(users=service.find_users(prefix, limit))

    @app.get(
        "/v1/items",
        responses=_responses(401, 403, 422, 429),
        dependencies=_SECURED,
        tags=["users and items"],
    )
    async def items(
        text: Annotated[
            str, Query(max_length=256, description="The id or the title contains this text.")
        ] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> ItemList:
        """Find items by a part of their id or title."""
        return ItemList(
            items=[
                ItemEntry(item_id=item_id, title=title)
                for item_id, title in await service.find_items(text, limit)
            ]
        )


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["operations"], response_class=PlainTextResponse)
    async def alive() -> str:
        """Answer 200 as long as this process runs."""
        return "alive\n"

    @app.get(
        "/readyz",
        tags=["operations"],
        response_class=PlainTextResponse,
        responses={503: {"description": "Not ready.", "model": Problem}},
    )
    async def ready() -> Response:
        """Answer 200 once the model is loaded and explains."""
        return (
            PlainTextResponse("ready\n")
            if await service.is_ready()
            else PlainTextResponse("not ready\n", 503, {"Retry-After": "2"})
        )

    @app.get(
        "/metrics",
        tags=["operations"],
        response_class=PlainTextResponse,
        responses=_responses(401, 403, 429),
        dependencies=_SECURED,
    )
    async def metrics() -> Response:
        """Return the metrics of this frontend in Prometheus' text format."""
        return Response(
            service.recorder.text(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )


async def _events(
    service: Service, pairs: Sequence[PairRequest], max_words: int | None
) -> AsyncGenerator[str, None]:
    try:
        for index, pair in enumerate(pairs):
            async with aclosing(service.stream(pair, max_words)) as events:
                async for event in events:
                    yield _event(index, event)
        yield _sse("done", {})
    except ProblemError as error:
        yield _sse("problem", error.problem.model_dump(exclude_none=True))


def _event(index: int, event: Delta | Explanation | NoExplanation) -> str:
    if isinstance(event, Delta):
        return (
            _sse("restart", {"index": index})
            if event.restarts
            else _sse("token", {"index": index, "text": event.text})
        )
    return _sse("explanation", {"index": index, "answer": event.model_dump(exclude_none=True)})


def _sse(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
