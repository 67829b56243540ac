"""Web server of `ida-tui attach RUN --serve`: a read-only view of one run in browsers on this machine.

One app serves all browsers: it draws once, and every browser receives the rows that changed. The server
listens on 127.0.0.1 only. It rejects pages of other origins, and requests for other host names (DNS
rebinding).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.http import HttpProcessingError

from ida_tui.errors import ExitCode, UsageError
from ida_tui.tui.web.app import SCREEN_SIZE, ScreenRow, WebApp

ADDRESS = "127.0.0.1"
PAGE_DIRECTORY = Path(__file__).parent / "page"
MAX_MESSAGE_BYTES = 100
"""Largest message from a browser in bytes; a message is a key name."""
MAX_WAITING_KEYS = 1000
"""Largest number of keys of a browser that wait for the app; a browser that sends more is disconnected."""
CLOSE_TIMEOUT_S = 1.0
"""Longest wait for a browser to confirm that it is disconnected, in seconds."""
MAX_QUEUED_FRAMES = 64
"""Largest number of frames queued for a browser; a slower browser is disconnected and reconnects."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def open_listener(port: int) -> socket.socket:
    """Open a listening socket on 127.0.0.1; port 0 picks a free port.

    Raises:
        UsageError: the port is not available.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"could not listen on port {port} of {ADDRESS}: {reason}",
            "choose another port with --port N (0 picks a free port)",
        ) from None
    return listener


class Viewers:
    """The connected viewers and the screen that they see."""

    def __init__(self) -> None:
        self._rows: list[ScreenRow] = []
        self._queues: set[asyncio.Queue[str | None]] = set()

    def send_frame(self, rows: list[ScreenRow]) -> None:
        """Send the changed rows to all viewers."""
        changed = {
            number: row
            for number, row in enumerate(rows)
            if number >= len(self._rows) or row != self._rows[number]
        }
        self._rows = rows
        if not changed:
            return
        message = json.dumps({"rows": changed}, ensure_ascii=False)
        for queue in list(self._queues):
            if queue.qsize() < MAX_QUEUED_FRAMES:
                queue.put_nowait(message)
            else:
                self._queues.discard(queue)
                queue.put_nowait(None)

    @contextlib.contextmanager
    def connect(self) -> Iterator[asyncio.Queue[str | None]]:
        """A queue of messages for one viewer: first the full screen, then changes; None ends it."""
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        size = {"columns": SCREEN_SIZE[0], "count": SCREEN_SIZE[1]}
        queue.put_nowait(json.dumps(size | {"rows": dict(enumerate(self._rows))}))
        self._queues.add(queue)
        try:
            yield queue
        finally:
            self._queues.discard(queue)

    def disconnect_all(self) -> None:
        """Disconnect all viewers."""
        for queue in self._queues:
            queue.put_nowait(None)


def build_web_app(
    viewers: Viewers, press: Callable[[str], Awaitable[None]], port: int
) -> web.Application:
    """The web application: the page and its WebSocket.

    Args:
        viewers: the viewers and their screen.
        press: called with the name of every pressed key, one after the other for each browser.
        port: port of the server; requests for other hosts are rejected.
    """
    hosts = {f"{name}:{port}" for name in (ADDRESS, "localhost")}
    origins = {f"http://{host}" for host in hosts}
    policy = "; ".join(
        [
            "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src data:",
            f"connect-src {' '.join(sorted(f'ws://{host}' for host in hosts))}",
            "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
        ]
    )  # fmt: skip
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }

    @web.middleware
    async def check_host_and_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.getall("Host", [])
        origin = request.headers.getall("Origin", [])
        if len(host) != 1 or host[0].lower() not in hosts:
            raise web.HTTPForbidden(text="this server accepts requests for 127.0.0.1 only\n")
        # Browsers always send the origin of a page that opens a WebSocket.
        if (origin or request.path == "/socket") and (len(origin) != 1 or origin[0] not in origins):
            raise web.HTTPForbidden(text="pages from other origins may not view this run\n")
        return await handler(request)

    async def serve_file(request: web.Request) -> web.StreamResponse:
        name = request.path.lstrip("/") or "index.html"
        return web.FileResponse(PAGE_DIRECTORY / name, headers=headers)

    async def serve_socket(request: web.Request) -> web.StreamResponse:
        browser = web.WebSocketResponse(
            heartbeat=15, max_msg_size=MAX_MESSAGE_BYTES, timeout=CLOSE_TIMEOUT_S
        )
        await browser.prepare(request)
        keys: asyncio.Queue[str] = asyncio.Queue(MAX_WAITING_KEYS)
        with viewers.connect() as queue:
            tasks = [
                asyncio.create_task(_send_messages(browser, queue)),
                asyncio.create_task(_press_keys(keys, press)),
            ]
            try:
                async for message in browser:
                    if message.type == WSMsgType.TEXT:
                        keys.put_nowait(message.data)
            except asyncio.QueueFull:
                await browser.close(code=WSCloseCode.POLICY_VIOLATION, message=b"too many keys")
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return browser

    app = web.Application(middlewares=[check_host_and_origin], client_max_size=MAX_MESSAGE_BYTES)
    app.add_routes([web.get(path, serve_file) for path in ("/", "/page.js", "/page.css")])
    app.add_routes([web.get("/socket", serve_socket)])
    return app


async def _press_keys(keys: asyncio.Queue[str], press: Callable[[str], Awaitable[None]]) -> None:
    while True:
        await press(await keys.get())


async def _send_messages(browser: web.WebSocketResponse, queue: asyncio.Queue[str | None]) -> None:
    while (message := await queue.get()) is not None:
        await browser.send_str(message)
    await browser.close()


def _is_own_error(record: logging.LogRecord) -> bool:
    """Whether a record is about an error of the server, not of a browser that sends no HTTP or leaves."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | ConnectionError)


def quiet_logger() -> logging.Logger:
    """The logger of the server, which ignores malformed and abandoned requests."""
    logger = logging.getLogger(__name__)
    logger.addFilter(_is_own_error)
    return logger


def serve(directory: Path, *, port: int) -> ExitCode:
    """Serve a run to the browsers of this machine until Ctrl-C.

    Args:
        directory: directory of a live or finished run.
        port: port on 127.0.0.1; 0 picks a free one.

    Raises:
        UsageError: the port is not available.
    """
    with open_listener(port) as listener:
        port = listener.getsockname()[1]
        print(f"✓ Read-only view: http://{ADDRESS}:{port}/", flush=True)
        print("  Ctrl-C stops the server, not the run", flush=True)
        asyncio.run(_serve_until_stopped(directory, listener, port))
    return ExitCode.DONE


async def _serve_until_stopped(directory: Path, listener: socket.socket, port: int) -> None:
    viewers = Viewers()
    app = WebApp(directory, viewers.send_frame)
    runner = web.AppRunner(
        build_web_app(viewers, app.press, port),
        access_log=None,
        logger=quiet_logger(),
        shutdown_timeout=1.0,
    )
    await runner.setup()
    await web.SockSite(runner, listener).start()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, app.stop)
    try:
        await app.run_async(headless=True, size=SCREEN_SIZE)
    finally:
        viewers.disconnect_all()
        await runner.cleanup()
