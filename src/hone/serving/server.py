"""The server: an address, and uvicorn on it until it is told to stop.

Does not know what is served.
"""

from __future__ import annotations

import copy
import ipaddress
import math
import socket
from collections.abc import Callable

from hone import log
from hone.errors import HoneError
from hone.serving.access import is_loopback
from hone.serving.web import FastAPI, uvicorn

SHORTEST_KEY = 8
"""Characters of a key where others than this machine may guess it."""


def open_socket(host: str, port: int, *, key: str) -> socket.socket:
    """A listening socket; before a model is loaded, as that takes long and this may fail. port 0: any free one.

    Raises: HoneError where the address is not to be had, or others could reach it and there is no key.
    """
    if not is_loopback(host) and len(key) < SHORTEST_KEY:
        raise HoneError(
            f"API_HOST={host}: others than this machine can reach it, so a key of {SHORTEST_KEY} characters or more is wanted: "
            "set API_KEY, or leave API_HOST out to serve this machine alone"
        )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as fault:
        raise HoneError(f"API_HOST={host} API_PORT={port} cannot be served: {fault.strerror or fault}") from fault


def serve(
    app: FastAPI,
    listening: socket.socket,
    *,
    name: str,
    seconds: float,
    tells: bool,
    page: str = "",
    started: Callable[[uvicorn.Server], None] = lambda _: None,
) -> None:
    """Serve until SIGINT or SIGTERM; answers that have begun come to their end, for `seconds` at most, or to a second signal.

    tells: every request is a line on standard error. page: path of a page for browsers, "" for none. started: called with the
    server before it runs.
    """
    lines = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    lines["handlers"]["access"]["stream"] = "ext://sys.stderr"
    config = uvicorn.Config(
        app,
        log_config=lines,
        log_level="info" if tells else "warning",
        access_log=tells,
        timeout_graceful_shutdown=math.ceil(seconds),
        server_header=False,
    )
    server = uvicorn.Server(config)
    started(server)
    host, port = listening.getsockname()[:2]
    address = f"http://{_in_url(host)}:{port}"
    log.info(f"serving {name} on {address}/v1 (its description: /docs)" + (f"; to chat, open {address}{page}/" if page else ""))
    server.run(sockets=[listening])


def _in_url(host: str) -> str:
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host
