"""Error responses: `application/problem+json` (RFC 9457).

A validation error never repeats what the client sent.
"""

import logging
from http import HTTPStatus

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from xrec.errors import UnknownIdError
from xrec.serve.messages import Problem
from xrec.serve.money import seconds_until_tomorrow, utc_now

logger = logging.getLogger("xrec")

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 2
"""The default Retry-After."""
_STATUS_OF_REASON = {
    "unknown_user": 404,
    "unknown_item": 404,
    "not_published": 404,
    "taken_down": 410,
    "scope": 403,
    "overloaded": 429,
    "over_budget": 429,
    "bug": 500,
}


class ProblemError(HTTPException):
    """An error that ends a request with a problem of type /problems/`reason`."""

    def __init__(self, status: int, reason: str, detail: str, retry_after: int | None = None):
        headers = {"Retry-After": str(retry_after)} if retry_after is not None else {}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status, detail, headers=headers)
        title, self.reason = HTTPStatus(status).phrase, reason
        self.problem = Problem(
            type=f"/problems/{reason}", title=title, status=status, detail=detail
        )

    def response(self, request_id: str | None) -> JSONResponse:
        """Return the HTTP response whose body is the problem."""
        self.problem.request_id = request_id
        content = self.problem.model_dump(exclude_none=True)
        return JSONResponse(content, self.status_code, self.headers, media_type=MEDIA_TYPE)


def refused(reason: str, message: str) -> ProblemError:
    """Return the error for a pair without an explanation.

    Its status is 403 for what the key may not see, 404 for an unknown ID or an unpublished pair,
    410 for a takedown, 429 for an overload or a day's money that is used up, 500 for a bug, and 422
    for any other reason.
    """
    status = _STATUS_OF_REASON.get(reason, 422)
    seconds = seconds_until_tomorrow(utc_now()) if reason == "over_budget" else RETRY_SECONDS
    return ProblemError(status, reason, message, seconds if status == 429 else None)


def unavailable(why: str = "no model replica is available") -> ProblemError:
    """Return the error for a request that cannot be answered now."""
    detail = f"{why}; retry in a few seconds"
    return ProblemError(503, "unavailable", detail, RETRY_SECONDS)


def fault() -> ProblemError:
    """Return the error for a bug, which is logged."""
    return ProblemError(500, "bug", "internal error; see the endpoint's log")


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """Return the response to an error in the application."""
    request_id = getattr(request.state, "request_id", None)
    return _problem_of(error, request_id).response(request_id)


def _problem_of(error: Exception, request_id: str | None) -> ProblemError:
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, RequestValidationError):
        return _invalid_request(error)
    if isinstance(error, UnknownIdError):
        return refused(error.reason, str(error))
    if isinstance(error, HTTPException):  # from Starlette: unknown path or method
        reason = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        problem = ProblemError(error.status_code, reason, str(error.detail))
        problem.headers = error.headers
        return problem
    logger.error("request %s: %s", request_id, type(error).__name__, exc_info=error)
    return fault()


def _invalid_request(error: RequestValidationError) -> ProblemError:
    invalid = ProblemError(
        422, "not_well_formed", "the request is invalid; see `errors` and /openapi.json"
    )
    invalid.problem.errors = [
        {
            "where": ".".join(_printable(str(part)) for part in detail["loc"]),
            # The message about invalid JSON may repeat what was sent.
            "expected": "valid JSON"
            if detail["type"].startswith("json")
            else _printable(str(detail["msg"])),
        }
        for detail in error.errors()[:20]
    ]
    return invalid


def _printable(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()[:200]
