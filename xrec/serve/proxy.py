"""A middleware for Ray Serve's HTTP proxy, for requests whose frontend died.

It answers them with 503 and Retry-After, where Serve alone would answer 500. Serve loads it if the
nodes of the cluster have RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=xrec.serve.proxy:middlewares in
their environment. `xrec serve` sets this for a cluster that it starts.
"""

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xrec.serve.problems import problem_response, unavailable

VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
CALLBACK = "xrec.serve.proxy:middlewares"


class DeadFrontend:
    """Wraps the proxy's `app`, which sends nothing if the replica of a request is gone."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        await self._app(scope, receive, watched)
        if scope["type"] == "http" and not has_begun:
            error = unavailable()
            request_id = Headers(scope=scope).get("x-request-id")
            headers = {
                **(error.headers or {}),
                **({"X-Request-ID": request_id} if request_id else {}),
            }
            await problem_response(error.problem, request_id, headers)(scope, receive, send)


def middlewares() -> list[Middleware]:
    """Return the middlewares for Serve, which calls this."""
    return [Middleware(DeadFrontend)]
