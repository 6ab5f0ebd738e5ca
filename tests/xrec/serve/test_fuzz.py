"""schemathesis over the whole OpenAPI description.

Whatever it sends, no answer is a 5xx, and every answer is one that the description names.
"""

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from xrec.serve.api import make_api
from xrec.serve.read_through import ReadThrough

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
NOTHING = ReadThrough.__new__(ReadThrough)
OPERATIONS = [
    (path, method)
    for path, methods in make_api(lambda: NOTHING).openapi()["paths"].items()
    for method in methods
]


@pytest.mark.parametrize(
    "max_examples", [15, pytest.param(300, marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_no_request_gets_an_answer_that_the_openapi_does_not_name(
    endpoint, path, method, max_examples
):
    schema = schemathesis.openapi.from_url(f"{endpoint.url}/openapi.json")
    sent = []

    @hypothesis.settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=schema[path][method.upper()].as_strategy())
    def ask(case: schemathesis.Case) -> None:
        sent.append(case)
        case.call_and_validate(checks=CHECKS, timeout=60)

    ask()
    assert sent
