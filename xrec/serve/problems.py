"""Errors as the endpoint sends them: `application/problem+json` (RFC 9457).

A validation error never repeats what the client sent.
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

logger = logging.getLogger("xrec")

MEDIA_TYPE = "application/problem+json"
_RETRY_SECONDS = 2
_STATUS_OF_REASON = {"unknown_user": 404, "unknown_item": 404, "overloaded": 429}


class Problem(BaseModel):
    """An error (RFC 9457). `type` is stable and meant for programs, `detail` is for people."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "/problems/unknown_item",
                "title": "Not Found",
                "status": 404,
                "detail": "...",
            }
        }
    )

    type: str = Field(
        description="/problems/<reason>; a pair has the reasons of a backfill's failed rows, "
        "and some of its own."
    )
    title: str = Field(description="The status in words.")
    status: int = Field(
        description="HTTP status; for one pair of several, the status that it would have alone."
    )
    detail: str = Field(description="What is wrong, and what to do.")
    request_id: str | None = Field(
        None, description="The X-Request-ID of the answer, to find the request in the logs."
    )
    errors: list[dict[str, Any]] | None = Field(
        None,
        description="For a request that is not well-formed: the place of each error, and what was "
        "expected there.",
    )


class ProblemError(HTTPException):
    """Ends a request with a problem."""

    def __init__(self, status: int, reason: str, detail: str, retry_after: int | None = None):
        retry = {"Retry-After": str(retry_after)} if retry_after is not None else {}
        super().__init__(
            status,
            detail,
            headers=retry | ({"WWW-Authenticate": "Bearer"} if status == 401 else {}),
        )
        self.problem = problem_of(status, reason, detail)
        self.retry_after = retry_after


def problem_of(status: int, reason: str, detail: str) -> Problem:
    """Return a problem of the type /problems/`reason`."""
    return Problem(
        type=f"/problems/{reason}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        request_id=None,
        errors=None,
    )


def problem_of_pair(reason: str, message: str) -> Problem:
    """Return the reason why a pair has no explanation, as a problem.

    Its status is 404 for an unknown id, 429 for an overload, 422 for all other reasons.
    """
    return problem_of(_STATUS_OF_REASON.get(reason, 422), reason, message)


def refused(reason: str, message: str) -> ProblemError:
    """Return `problem_of_pair` as an error, for a request of a single pair."""
    return ProblemError(_STATUS_OF_REASON.get(reason, 422), reason, message)


def unavailable() -> ProblemError:
    """Return the error for a request that no model replica answers."""
    return ProblemError(
        503,
        "model_unavailable",
        "no model replica answers; it is being started again: ask again in a few seconds",
        _RETRY_SECONDS,
    )


def overloaded(detail: str) -> ProblemError:
    """Return the error for a request beyond the limits of the endpoint."""
    return ProblemError(429, "overloaded", detail, _RETRY_SECONDS)


def problem_response(
    problem: Problem, request_id: str | None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return the HTTP response that has `problem` as its body."""
    content = problem.model_copy(update={"request_id": request_id}).model_dump(exclude_none=True)
    return JSONResponse(content, problem.status, dict(headers or {}), media_type=MEDIA_TYPE)


def install_handlers(app: FastAPI) -> None:
    """Answer every error of `app` with a problem."""
    app.add_exception_handler(ProblemError, _of_problem)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _of_bug)


def _request_id(request: Request) -> str | None:
    return getattr(request.state, "request_id", None)


async def _of_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProblemError)
    return problem_response(error.problem, _request_id(request), error.headers)


async def _of_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problem = problem_of(
        422, "not_well_formed", "the request is not what the API takes; see errors, and /docs"
    )
    errors = [
        {
            "where": ".".join(_printable(str(part)) for part in detail["loc"]),
            "expected": _expected(detail),
        }
        for detail in error.errors()
    ]
    return problem_response(
        problem.model_copy(update={"errors": errors[:20]}), _request_id(request)
    )


async def _of_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    reason = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return problem_response(
        problem_of(error.status_code, reason, str(error.detail)),
        _request_id(request),
        error.headers,
    )


async def _of_bug(request: Request, error: Exception) -> JSONResponse:
    logger.error("request %s: %s", _request_id(request), type(error).__name__, exc_info=error)
    return problem_response(
        problem_of(500, "bug", "a fault of the endpoint; its log has more under the request id"),
        _request_id(request),
    )


def _expected(detail: Mapping[str, Any]) -> str:
    """Return pydantic's message, except for errors whose message may repeat what was sent."""
    return "valid JSON" if detail["type"].startswith("json") else _printable(str(detail["msg"]))


def _printable(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()[:200]
