"""A client of the endpoint, for Python programs.

with Client("http://127.0.0.1:8000") as client:
    answer = client.explain([("resident-17", "place-3")])[0]
"""

from collections.abc import Iterable
from typing import Any, Self
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from xrec.errors import EndpointAccessError, EndpointError, EndpointUnreachableError, UnknownIdError
from xrec.serve.messages import MAX_PAIRS, Explanation, Explanations, NoExplanation, Recommendations

_ERRORS: dict[int, type[EndpointError | UnknownIdError]] = {
    401: EndpointAccessError,
    403: EndpointAccessError,
    404: UnknownIdError,
}


class Client:
    """Asks the endpoint at `url`, with the API key if there is one; threads need one each.

    An endpoint that is busy or not ready (429, 503) is asked again when it says, three times.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout_seconds: float = 120.0):
        self._url, self._timeout_seconds = url.rstrip("/"), timeout_seconds
        self._session = requests.Session()
        again = Retry(3, status_forcelist=(429, 503), allowed_methods=None, raise_on_status=False)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=again))
        if key is not None:
            self._session.headers["Authorization"] = f"Bearer {key}"

    def explain(
        self, pairs: Iterable[tuple[str, str]], *, max_words: int | None = None
    ) -> list[Explanation | NoExplanation]:
        """The answer for each pair of user_id and item_id, in their order; 64 pairs a request.

        Raises EndpointAccessError if the key is refused, EndpointUnreachableError if nothing
        answers, EndpointError if a request as a whole is refused for another reason.
        """
        rows = [{"user_id": user, "item_id": item} for user, item in pairs]
        answers: list[Explanation | NoExplanation] = []
        for start in range(0, len(rows), MAX_PAIRS):
            body = {"pairs": rows[start : start + MAX_PAIRS], "max_words": max_words}
            data = self._ask("POST", "/v1/explanations", json=body)
            answers += Explanations.model_validate_json(data).explanations
        return answers

    def recommend(
        self, user_id: str, k: int = 5, *, explain: bool = True, max_words: int | None = None
    ) -> Recommendations:
        """The user's k best unseen items, with explanations if `explain`.

        Raises UnknownIdError, and what `explain` raises.
        """
        options = {"k": k, "explain": explain, "max_words": max_words}
        place = f"/v1/users/{quote(user_id, safe='')}/recommendations"
        return Recommendations.model_validate_json(self._ask("GET", place, params=options))

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _ask(self, method: str, place: str, **options: Any) -> bytes:
        url = f"{self._url}{place}"
        try:
            answer = self._session.request(method, url, timeout=self._timeout_seconds, **options)
        except requests.RequestException as error:
            raise EndpointUnreachableError(
                f"{self._url}: the endpoint does not answer ({error}); check the URL, and that "
                "`xrec serve` runs"
            ) from error
        if answer.ok:
            return answer.content
        try:
            detail = str(answer.json()["detail"])
        except (ValueError, KeyError, TypeError):  # the page of a proxy
            detail = answer.text[:300]
        error_type = _ERRORS.get(answer.status_code, EndpointError)
        raise error_type(f"{self._url}: {answer.status_code}: {detail}")
