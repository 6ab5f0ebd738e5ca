"""The page at `/`: files beside this module, which load nothing from other hosts."""

from pathlib import Path

from fastapi import FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

_FOLDER = Path(__file__).parent / "page_files"
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def add_page(app: FastAPI) -> None:
    """Serve the page at `/` and its files below `/page/`."""

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(_FOLDER / "index.html", headers=_HEADERS)

    app.mount("/page", StaticFiles(directory=_FOLDER))
