"""The one door to FastAPI and uvicorn, which the extra `serve` brings.

Does not know what is served.
"""

from __future__ import annotations

from hone.errors import MissingExtra

try:
    import uvicorn
    from fastapi import APIRouter, FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.middleware.cors import CORSMiddleware
    from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
    from starlette.exceptions import HTTPException
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ModuleNotFoundError as fault:
    raise MissingExtra(fault.name or "fastapi", "serve", "hone api") from fault

__all__ = [
    "APIRouter",
    "ASGIApp",
    "CORSMiddleware",
    "FastAPI",
    "HTMLResponse",
    "HTTPException",
    "JSONResponse",
    "Message",
    "PlainTextResponse",
    "Receive",
    "RedirectResponse",
    "Request",
    "RequestValidationError",
    "Response",
    "Scope",
    "Send",
    "StreamingResponse",
    "uvicorn",
]
