"""The app: the routes behind their doors, and what errors are told as.

Does not know how a model is loaded, nor on which address it is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import hone
from hone.errors import HoneError
from hone.serving.access import Access, Pages
from hone.serving.asked import Terms
from hone.serving.connected import Gone
from hone.serving.desk import Desk, Served
from hone.serving.media import MEGABYTE
from hone.serving.metrics import Meter, Metrics
from hone.serving.protocol import (
    PIECES,
    SPELLED,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    LoadAdapter,
    ScoreRequest,
    UnloadAdapter,
)
from hone.serving.refusal import error_body, refusal_of
from hone.serving.routes import Routes
from hone.serving.turns import Turns
from hone.serving.web import CORSMiddleware, FastAPI, HTTPException, JSONResponse, RequestValidationError, Response
from hone.serving.web import Request as Http
from hone.table import nearest

ASKED = (ChatRequest, CompletionRequest, EmbeddingRequest, LoadAdapter, ScoreRequest, UnloadAdapter)
FIELDS = sorted({name for kind in ASKED for name in kind.model_fields})


class Site(Protocol):
    """Pages beside the API, and how they come into the app."""

    pages: Pages

    def mount(self, app: FastAPI, desk: Desk, key: str) -> None:
        """Put them there; what is asked on them is answered at the desk."""
        ...


def build_app(
    served: Served, terms: Terms, *, key: str = "", num_running: int = 1, root_path: str = "", site: Site | None = None
) -> FastAPI:
    """The app that serves one model. key: see Access; num_running: requests that are answered at once."""
    limits, metrics = terms.limits, Metrics()
    app = FastAPI(title="hone", version=hone.__version__, description="OpenAI's protocol over one model.", root_path=root_path)
    desk = Desk(served, terms, Turns(num_running, limits.api_max_waiting), metrics)
    app.include_router(Routes(desk).router())
    paths = frozenset(_documented(app, key)["paths"])
    if site is not None:
        site.mount(app, desk, key)
    # The last one added is the first to be asked.
    pages = site.pages if site is not None else None
    in_base64 = int(limits.api_max_media_size * MEGABYTE * 4 / 3) if desk.media.takes else 0
    app.add_middleware(Access, key=key, max_bytes=int(limits.api_max_body * MEGABYTE), media_bytes=in_base64, pages=pages)
    if limits.api_cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(limits.api_cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    app.add_middleware(Meter, metrics=metrics, paths=paths)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HoneError, _refused)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Gone, _gone)
    app.add_exception_handler(Exception, _fault)
    return app


def _documented(app: FastAPI, key: str) -> dict:
    """The app's OpenAPI document, kept for /openapi.json: with the key, and without the status that FastAPI would give faults."""
    document = app.openapi()
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)
    if key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


async def _malformed(_: Http, fault: RequestValidationError) -> JSONResponse:
    """Every field that is wrong, in one message; OpenAI's status for it is 400."""
    errors = _meant(fault.errors())
    told = [_told(error) for error in errors[:8]] + ([f"and {len(errors) - 8} more"] if len(errors) > 8 else [])
    return JSONResponse(error_body(400, "; ".join(told), _place(errors[0]) or None), 400)


def _meant(errors: Sequence[dict]) -> list[dict]:
    """Without those that say of a list that it is no text, where something within it is what is wrong."""
    inside = {tuple(one["loc"][:at]) for one in errors for at in range(len(one["loc"]) - 1)}
    return [one for one in errors if one["loc"][-1:] != ("str",) or tuple(one["loc"][:-1]) not in inside]


def _told(error: dict) -> str:
    place, last = _place(error), str(error["loc"][-1]) if error["loc"] else ""
    if error["type"] == "json_invalid":
        return f"the body is no JSON: {error.get('ctx', {}).get('error', error['msg'])} at its character {last}"
    if error["type"] == "extra_forbidden":
        return f"{place}: this server knows no such field{nearest(last, FIELDS)}"
    words = SPELLED.get(error.get("ctx", {}).get("pattern"), error["msg"].removeprefix("Value error, "))
    return f"{place}: {words}" if place else words


def _place(error: dict) -> str:
    """ "messages[2].content" """
    if error["type"] == "json_invalid":
        return ""  # its place is one in the text
    parts = [part for part in error["loc"][1:] if not isinstance(part, str) or part.isidentifier()]
    if parts[-1:] == ["str"]:
        parts.pop()  # not a field, but what might have stood there
    parts = [part for at, part in enumerate(parts) if not (part in PIECES and isinstance(parts[at - 1], int))]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")[:200]


async def _refused(_: Http, no: HoneError) -> JSONResponse:
    no = refusal_of(no)
    return JSONResponse(no.body(), no.status, headers=no.headers)


async def _of_http(_: Http, fault: HTTPException) -> JSONResponse:
    return JSONResponse(error_body(fault.status_code, str(fault.detail)), fault.status_code, headers=fault.headers)


async def _gone(_: Http, fault: Gone) -> Response:
    """Nobody reads it; the number is nginx's for a client that left."""
    return Response(status_code=499)


async def _fault(_: Http, fault: Exception) -> JSONResponse:
    """The trace goes to the log; the caller is told no more of the server's inside than the kind."""
    return JSONResponse(error_body(500, f"the server failed: {type(fault).__name__}; its log tells more"), 500)
