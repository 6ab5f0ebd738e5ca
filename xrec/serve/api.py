"""The HTTP API: routes, their OpenAPI, server-sent events. What is behind them is a `Service`."""

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query
from fastapi.security import HTTPBearer
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from xrec import __version__
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

_DESCRIPTION = """Why a user would like an item. A finished backfill answers at once (`source: backfill`), a language model with the
collaborative signal writes the rest (`source: live`). Errors are `application/problem+json` (RFC 9457); every answer has `X-Request-ID`."""

_MEANINGS = {
    401: "No key, or one that is not known.",
    403: "Without keys this endpoint answers its own machine only.",
    404: "A user or item that is not known.",
    413: "A body that is too large.",
    422: "Not well-formed; or, of one pair, a text that cannot be used.",
    429: "More than is done at a time, or than this key may ask; see Retry-After.",
    503: "No model replica answers; see Retry-After.",
    504: "Not answered within the deadline.",
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
    description="A key of security.keys; on its own machine an endpoint without keys asks for none.",
)
_SECURED = [Depends(_KEY)]
"""Tells OpenAPI of the key; who may ask is decided before, by xrec.serve.gate."""


def make_api(service: Service) -> FastAPI:
    """The application."""
    app = FastAPI(
        title="xrec",
        version=__version__,
        description=_DESCRIPTION,
        separate_input_output_schemas=False,
    )
    install_handlers(app)
    _add_explanations(app, service)
    _add_users_and_items(app, service)
    _add_operations(app, service)
    add_page(app)
    return app


def _add_explanations(app: FastAPI, service: Service) -> None:
    @app.post("/v1/explanations", responses=_ASKED, dependencies=_SECURED, tags=["explanations"])
    async def explain(request: ExplanationsRequest) -> Explanations:
        """Explain one to 64 pairs. A pair that cannot be explained is a `problem` in its place and harms no other."""
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
        """Explain pairs one after the other, each as it is written.

        Events: `token` {index, text}, what text number `index` has grown by; `restart` {index}, begin it anew; `explanation`
        {index, answer}, the whole answer, which may end before the last token; `problem`, after which nothing comes; `done`.
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

    @app.post(
        "/v1/evidence",
        responses={**_ASKED, **_responses(404)},
        dependencies=_SECURED,
        tags=["explanations"],
    )
    async def evidence(request: EvidenceRequest) -> Evidence:
        """What an explanation rests on: profiles, the nearest items of the user's history, and how likely the text is under other users' vectors."""
        return await service.evidence(request.user_id, request.item_id, request.explanation)


def _add_users_and_items(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/users/{user_id}/recommendations",
        responses=_ASKED_BY_ID,
        dependencies=_SECURED,
        tags=["users and items"],
    )
    async def recommend(
        user_id: UserId,
        k: Annotated[int, Query(ge=1, le=MAX_PAIRS, description="Items.")] = 5,
        max_words: Annotated[MaxWords, Query()] = None,
        explain: Annotated[bool, Query(description="With explanations.")] = True,
    ) -> Recommendations:
        """The k best items that the user has not seen, with explanations."""
        return Recommendations(
            user_id=user_id, items=await service.recommend(user_id, k, max_words, explain)
        )

    @app.get(
        "/v1/users",
        responses=_responses(401, 403, 422, 429),
        dependencies=_SECURED,
        tags=["users and items"],
    )
    async def users(
        prefix: Annotated[str, Query(max_length=256, description="How the ids begin.")] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> UserList:
        """Ids of users, in order."""
        return UserList(users=service.find_users(prefix, limit))

    @app.get(
        "/v1/items",
        responses=_responses(401, 403, 422, 429),
        dependencies=_SECURED,
        tags=["users and items"],
    )
    async def items(
        text: Annotated[str, Query(max_length=256, description="What id or title hold.")] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> ItemList:
        """Items by a part of their id or title."""
        return ItemList(
            items=[
                ItemEntry(item_id=item_id, title=title)
                for item_id, title in await service.find_items(text, limit)
            ]
        )


def _add_operations(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["operations"], response_class=PlainTextResponse)
    async def alive() -> str:
        """This process answers."""
        return "alive\n"

    @app.get(
        "/readyz",
        tags=["operations"],
        response_class=PlainTextResponse,
        responses={503: {"description": "Not ready.", "model": Problem}},
    )
    async def ready() -> Response:
        """The model is loaded, and explains."""
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
        """This frontend's metrics, in Prometheus' text format."""
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
