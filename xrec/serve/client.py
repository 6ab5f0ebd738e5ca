"""A client of the endpoint, for Python programs.

with Client("http://127.0.0.1:8000") as client:
    answer = client.explain([("resident-17", "place-3")])[0]
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ValidationError

from xrec.errors import (
    EndpointAccessError,
    EndpointError,
    EndpointUnreachableError,
    UnknownIdError,
    XRecError,
)
from xrec.serve.messages import (
    MAX_PAIRS,
    Evidence,
    Explanation,
    Explanations,
    NoExplanation,
    PairRequest,
    Parts,
    Problem,
    Recommendations,
)

_MAX_RETRIES = 3
_UNKNOWN = {"/problems/unknown_user": "user", "/problems/unknown_item": "item"}

_Answer = TypeVar("_Answer", bound=BaseModel)


class StreamEvent(BaseModel):
    """An event in the stream, about the text of pair `index`.

    part: the next part of the text is `text`. withdrawn: the text was refused; discard the parts
    sent so far. explanation: the complete answer is `answer`.
    """

    name: Literal["part", "withdrawn", "explanation"]
    index: int
    text: str = ""
    is_checked: bool = False
    answer: Explanation | NoExplanation | None = None


class Client:
    """A client of the endpoint at `url`, with an optional API key.

    After a status 429 or 503, a request is retried up to three times, at the time that the endpoint
    names, unless that is more than `timeout_seconds` away. Methods raise EndpointAccessError if the
    key is refused, EndpointUnreachableError if the endpoint does not respond, and EndpointError for
    other failures.

    transport: sends the requests; the default is the network.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_seconds: float = 120.0,
        transport: httpx2.BaseTransport | None = None,
    ):
        self._url, self._timeout_seconds = url, timeout_seconds
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx2.Client(
            base_url=url, headers=headers, timeout=timeout_seconds, transport=transport
        )

    def explain(
        self, pairs: Iterable[tuple[str, str] | PairRequest]
    ) -> list[Explanation | NoExplanation]:
        """Return the answer for each pair of user_id and item_id, in order.

        A `PairRequest` can also have the history of a new user, or texts that replace stored ones.
        Each request to the endpoint has up to 64 pairs.
        """
        rows = _rows(pairs)
        answers: list[Explanation | NoExplanation] = []
        for start in range(0, len(rows), MAX_PAIRS):
            body = {"pairs": rows[start : start + MAX_PAIRS]}
            response = self._ask(Explanations, "POST", "/v1/explanations", json=body)
            answers += response.explanations
        return answers

    def stream(
        self,
        pairs: Iterable[tuple[str, str] | PairRequest],
        *,
        parts: Parts = "checked",
    ) -> Iterator[StreamEvent]:
        """Yield events while the texts of up to 64 pairs are written, one pair after another."""
        body = {"pairs": _rows(pairs), "parts": parts}
        response = self._send("POST", "/v1/explanations/stream", json=body, stream=True)
        with closing(response), self._reading():
            for name, data in _server_sent(response.iter_lines()):
                if name == "done":
                    return
                if name == "problem":
                    raise self._error(response.status_code, data)
                yield StreamEvent.model_validate({"name": name, **json.loads(data)})
        raise EndpointUnreachableError(
            f"{self._url}: the stream ended early; try again", code="stream_ended_early"
        )

    def recommend(self, user_id: str, k: int = 5, *, explain: bool = True) -> Recommendations:
        """Return the user's k best unseen items, with explanations if `explain`.

        Raises UnknownIdError if the dataset does not have the user.
        """
        path = f"/v1/users/{quote(user_id, safe='')}/recommendations"
        params = {"k": k, "explain": explain}
        return self._ask(Recommendations, "GET", path, params=params)

    def recommend_from(self, history: Sequence[str], k: int = 5) -> Recommendations:
        """Return the k best items for someone who is not in the dataset and chose these items.

        Raises UnknownIdError if the dataset does not have an item.
        """
        body = {"history": list(history), "k": k}
        return self._ask(Recommendations, "POST", "/v1/recommendations", json=body)

    def evidence(self, user_id: str, item_id: str) -> Evidence:
        """Return the evidence behind an explanation of the pair.

        Raises UnknownIdError if the dataset does not have the user or the item.
        """
        body = {"user_id": user_id, "item_id": item_id}
        return self._ask(Evidence, "POST", "/v1/evidence", json=body)

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, answer: type[_Answer], method: str, path: str, **options: Any) -> _Answer:
        response = self._send(method, path, **options)
        with self._reading():
            return answer.model_validate_json(response.content)

    def _send(
        self, method: str, path: str, *, stream: bool = False, **options: Any
    ) -> httpx2.Response:
        """Send a request, with retries; return the response if it succeeds."""
        for retry in range(_MAX_RETRIES + 1):
            with self._reading():
                request = self._http.build_request(method, path, **options)
                response = self._http.send(request, stream=stream)
                if response.is_success:
                    return response
                response.read()
            after = response.headers.get("retry-after", "")
            wait = int(after) if after.isdecimal() and len(after) < 9 else 2**retry
            is_busy = response.status_code in (429, 503) and wait <= self._timeout_seconds
            if not is_busy or retry == _MAX_RETRIES:
                break
            time.sleep(wait)
        raise self._error(response.status_code, response.text)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Raise an EndpointError if there is no response, or if it is not the endpoint's."""
        try:
            yield
        except httpx2.TransportError as error:
            raise EndpointUnreachableError(
                f"{self._url}: the endpoint does not respond ({error}); check the URL, and that "
                "`xrec serve` is running",
                code="unreachable",
                saw=self._url,
            ) from error
        except ValueError as error:
            raise EndpointError(
                f"{self._url}: the response is not from an xrec endpoint ({error}); check the URL, "
                "and that client and endpoint have the same version",
                code="unknown_response",
                saw=self._url,
            ) from error

    def _error(self, status: int, body: str) -> XRecError:
        """Return the error for a problem, or for the response of a proxy or another server."""
        reason = ""
        try:
            problem = Problem.model_validate_json(body)
        except ValidationError:
            detail = f"{body[:300]!r}, which is not from an xrec endpoint; check the URL"
        else:
            status, detail, reason = problem.status, problem.detail, problem.type
        message = f"{self._url}: {status}: {detail}"
        if reason in _UNKNOWN:
            return UnknownIdError(message, _UNKNOWN[reason])
        kind = EndpointAccessError if status in (401, 403) else EndpointError
        return kind(message, code=reason.rpartition("/")[2] or "unknown_response", saw=status)


def _rows(pairs: Iterable[tuple[str, str] | PairRequest]) -> list[dict[str, Any]]:
    return [
        pair.model_dump(exclude_defaults=True)
        if isinstance(pair, PairRequest)
        else {"user_id": pair[0], "item_id": pair[1]}
        for pair in pairs
    ]


def _server_sent(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the name and the data of each server-sent event."""
    name = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, value
