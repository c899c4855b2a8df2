"""The explorer as a page of this machine's own, for those without Jupyter.

What keeps others out:

1. The server listens on 127.0.0.1 alone.
2. Every address begins with a random token, which is compared in constant time; without it everything is 403. Another
   page in the same browser, or another user of the machine, does not know it.
3. Only requests whose ``Host`` is this machine's own are answered, so that no other site's name can be made to lead
   here (DNS rebinding).
4. A content security policy lets the page load its own two files and talk to its own server, and nothing else; it may
   not be framed, and its address is never given away as a referrer.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from emotion_circuits.errors import EmotionCircuitsError
from emotion_circuits.explorer import messages
from emotion_circuits.explorer.extra import needs

with needs("the explorer's page"):
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
    from starlette.routing import Mount, Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from emotion_circuits.explorer.explorer import Explorer

HOST = "127.0.0.1"
MAX_BYTES = 64 * 1024
"""Longest message."""

STATIC = Path(__file__).parent / "static"
FILES = {"": "page.html", "page.js": "page.js", "explorer.js": "explorer.js", "explorer.css": "explorer.css"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def app_of(explorer: Explorer, token: str) -> Starlette:
    """The web application, whose every address begins with ``/<token>/``."""
    turn = asyncio.Lock()  # one explorer, one message at a time

    async def state(request: Request) -> Response:
        async with turn:
            return JSONResponse(await run_in_threadpool(lambda: _everything(explorer)))

    async def message(request: Request) -> Response:
        body = await _body(request)
        if body is None:
            return PlainTextResponse("the message is too long", 413)
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):  # thousands of open brackets are no message either
            return PlainTextResponse("the message is not JSON", 400)
        async with turn:
            return JSONResponse(await run_in_threadpool(messages.answer, explorer, content))

    routes = [Route(f"/{name}", _file(file)) for name, file in FILES.items()]
    routes += [Route("/state", state), Route("/message", message, methods=["POST"])]
    guards = [
        Middleware(Guard, token=token),
        Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False),
    ]
    return Starlette(routes=[Mount(f"/{token}", routes=routes)], middleware=guards)


class Guard:
    """Refuses every request whose address does not begin with the token, and puts `HEADERS` on every answer."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def with_headers(event: Message) -> None:
            if event["type"] == "http.response.start":
                event["headers"] += [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            await send(event)

        given = scope["path"].partition("/")[2].partition("/")[0].encode()
        refused = PlainTextResponse("open the address that emotion-circuits explore printed, with its token", 403)
        allowed = secrets.compare_digest(given, self._token)
        await (self.app if allowed else refused)(scope, receive, with_headers)


def serve(explorer: Explorer, port: int = 0, *, ready: Callable[[str], None] | None = None) -> None:
    """Serve the page until the process is interrupted.

    Args:
        explorer: what is shown.
        port: where to listen; 0 takes a free one.
        ready: called with the page's address, token included, once it answers.

    Raises:
        EmotionCircuitsError: the port is taken.
    """
    with listening(port) as place:
        token = secrets.token_urlsafe(32)
        # No access log: it would hold the token.
        config = uvicorn.Config(
            app_of(explorer, token), log_level="warning", access_log=False, lifespan="off", server_header=False,
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        if ready:
            ready(f"http://{HOST}:{place.getsockname()[1]}/{token}/")
        uvicorn.Server(config).run(sockets=[place])


def listening(port: int) -> socket.socket:
    """A socket that listens on this machine's own address.

    Raises:
        EmotionCircuitsError: the port is taken, or may not be used.
    """
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise EmotionCircuitsError(f"cannot listen on {HOST}:{port} ({error}); choose another --port") from error


def _everything(explorer: Explorer) -> messages.Parts:
    return {"about": messages.about(explorer), **messages.show(explorer), "status": {}}


def _file(name: str):
    async def endpoint(request: Request) -> Response:
        return FileResponse(STATIC / name)

    return endpoint


async def _body(request: Request) -> bytes | None:
    """The request's content; None as soon as it is too long."""
    held = bytearray()
    async for part in request.stream():
        held += part
        if len(held) > MAX_BYTES:
            return None
    return bytes(held)
