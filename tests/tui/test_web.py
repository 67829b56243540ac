"""The read-only web view of a run: one app for all browsers, reachable only from this machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from ida_tui.errors import UsageError
from ida_tui.runs import control, owner
from ida_tui.runs.directory import RunDirectory
from ida_tui.tui.actions import ACTIONS
from ida_tui.tui.web import server
from ida_tui.tui.web.app import READ_ONLY_ACTIONS, SCREEN_SIZE, WebApp
from tests.support import chromium, synthetic_run
from tests.support.chromium import CHROMIUM
from tests.support.patience import PATIENCE_S

RUN = Path("outputs/quickstart/20260101-000000")


class Browser:
    """A client that stores the screen rows as the page does."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.rows: dict[int, list[list[Any]]] = {}

    @property
    def text(self) -> str:
        """The text on the screen."""
        return "\n".join("".join(s[0] for s in row) for _, row in sorted(self.rows.items()))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Reads messages until the condition is true."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                message = json.loads((await self.socket.receive()).data)
                self.rows |= {int(number): row for number, row in message["rows"].items()}

    async def until_shown(self, *texts: str) -> None:
        """Reads messages until all of these texts are on the screen."""
        await self.until(lambda: all(text in self.text for text in texts))


class WebRun:
    """A run served by this process."""

    def __init__(self, app: WebApp, port: int, session: aiohttp.ClientSession) -> None:
        self.app, self.port, self.session = app, port, session

    @contextlib.asynccontextmanager
    async def browser(self, host: str = "127.0.0.1") -> AsyncIterator[Browser]:
        """A browser connected from the server's own page."""
        origin = f"http://{host}:{self.port}"
        async with self.session.ws_connect(f"{origin}/socket", origin=origin) as socket:
            yield Browser(socket)


def serve_run(scenario: Callable[[WebRun], Awaitable[None]], directory: Path = RUN) -> None:
    """Serves a run and plays a scenario with it."""

    async def main() -> None:
        with server.open_listener(0) as listener:
            port = listener.getsockname()[1]
            viewers = server.Viewers()
            app = WebApp(directory, viewers.send_frame)
            runner = web.AppRunner(
                server.build_web_app(viewers, app.press, port), shutdown_timeout=1.0
            )
            await runner.setup()
            await web.SockSite(runner, listener).start()
            app_task = asyncio.create_task(app.run_async(headless=True, size=SCREEN_SIZE))
            async with aiohttp.ClientSession() as session:
                try:
                    await scenario(WebRun(app, port, session))
                finally:
                    app.exit()
                    await app_task
                    viewers.disconnect_all()
                    await runner.cleanup()

    asyncio.run(main())


@pytest.fixture
def finished_run() -> RunDirectory:
    """A finished run of six steps."""
    synthetic_run.write(RUN / "events.jsonl", 6)
    return RunDirectory(RUN.resolve())


@pytest.fixture
def live_run(finished_run: RunDirectory) -> Iterator[RunDirectory]:
    """The same run before its end, owned by this process."""
    lines = finished_run.events.read_text().splitlines(keepends=True)
    finished_run.events.write_text("".join(lines[:-3]))
    with owner.owned_run(finished_run):
        yield finished_run


# --- access ----------------------------------------------------------------------------


def test_the_page_loads_nothing_from_other_hosts(finished_run: RunDirectory) -> None:
    async def scenario(web_run: WebRun) -> None:
        for path in ("/", "/page.js", "/page.css"):
            async with web_run.session.get(f"http://127.0.0.1:{web_run.port}{path}") as response:
                text = await response.text()
                assert response.status == 200
                assert "default-src 'none'" in response.headers["Content-Security-Policy"]
                assert "http:" not in text.replace("http://www.w3.org", "")
                assert "https:" not in text

    serve_run(scenario)


@pytest.mark.parametrize("path", ["/", "/page.js", "/socket"])
@pytest.mark.parametrize(
    "forged_headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:{port}"},
        {"Host": "127.0.0.1:1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1.evil.example:{port}"},
    ],
    ids=str,
)
def test_a_forged_host_or_origin_is_refused(
    path: str, forged_headers: dict[str, str], finished_run: RunDirectory
) -> None:
    async def scenario(web_run: WebRun) -> None:
        own_origin = {"Origin": f"http://127.0.0.1:{web_run.port}"} if path == "/socket" else {}
        headers = own_origin | {k: v.format(port=web_run.port) for k, v in forged_headers.items()}
        url = f"http://127.0.0.1:{web_run.port}{path}"
        if path != "/socket":
            async with web_run.session.get(url, headers=headers) as response:
                assert response.status == 403
            return
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await web_run.session.ws_connect(url, headers=headers)
        assert refused.value.status == 403

    serve_run(scenario)


def test_a_socket_without_an_origin_is_refused(finished_run: RunDirectory) -> None:
    async def scenario(web_run: WebRun) -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await web_run.session.ws_connect(f"http://127.0.0.1:{web_run.port}/socket")
        assert refused.value.status == 403

    serve_run(scenario)


def test_only_this_machine_can_connect() -> None:
    with server.open_listener(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


# --- the screen -----------------------------------------------------------------------------


def test_all_browsers_show_the_same_full_screen(finished_run: RunDirectory) -> None:
    async def scenario(web_run: WebRun) -> None:
        async with web_run.browser() as first, web_run.browser("localhost") as second:
            await first.until_shown("Training complete", "6 step")
            await second.until(lambda: second.text == first.text)
            async with web_run.browser() as late_browser:
                await late_browser.until(lambda: bool(late_browser.rows))
                assert late_browser.text == first.text
                assert len(late_browser.rows) == SCREEN_SIZE[1]
                assert {sum(span[1] for span in row) for row in late_browser.rows.values()} == {
                    SCREEN_SIZE[0]
                }

    serve_run(scenario)


def test_a_key_changes_the_screen_in_every_browser(finished_run: RunDirectory) -> None:
    async def scenario(web_run: WebRun) -> None:
        async with web_run.browser() as first, web_run.browser() as second:
            await first.until_shown("Training complete")
            await second.socket.send_str("3")
            await first.until_shown(synthetic_run.PROMPT)
            await second.until(lambda: second.text == first.text)

    serve_run(scenario)


def test_a_live_run_is_followed(live_run: RunDirectory) -> None:
    async def scenario(web_run: WebRun) -> None:
        async with web_run.browser() as browser:
            await browser.until_shown("live (other process)")
            full_log = live_run.events.with_name("whole.jsonl")
            synthetic_run.write(full_log, 6)
            with open(live_run.events, "a") as file:
                file.writelines(full_log.read_text().splitlines(keepends=True)[-3:])
            await browser.until_shown("Training complete")

    serve_run(scenario)


# --- read-only -----------------------------------------------------------------------


def test_no_key_controls_the_run_or_leaves_its_screens(live_run: RunDirectory) -> None:
    keys = {key for action in ACTIONS for key in action.keys} | {"y", "ctrl+c", "", "x" * 90}

    async def scenario(web_run: WebRun) -> None:
        async with web_run.browser() as browser:
            await browser.until_shown("live (other process)")
            for screen in ("2", "3"):
                # Presses the digit again after each key, since a dialog would hide the screen.
                for key in sorted(keys):
                    for press in (screen, key, "y", "enter"):
                        await browser.socket.send_str(press)
            await browser.socket.send_str("2")
            await browser.until_shown("Progress", "live (other process)")
            assert control.pop_request(live_run) is None
            assert web_run.app.screen_stack == [web_run.app.screen]
            assert web_run.app.current_mode in ("run", "completions")
            assert web_run.app.is_running

    files_before = sorted(path for path in live_run.path.rglob("*"))
    serve_run(scenario)
    assert sorted(path for path in live_run.path.rglob("*")) == files_before
    assert owner.is_alive(live_run)


def test_read_only_actions_are_known_and_change_nothing() -> None:
    assert {action.id for action in ACTIONS} >= READ_ONLY_ACTIONS
    for action in ("stop", "pause", "detach", "quit", "start", "save", "open", "command_palette"):
        assert action not in READ_ONLY_ACTIONS
    for action in ("agree", "disagree", "clear_mark"):
        assert action not in READ_ONLY_ACTIONS


def test_the_footer_shows_no_disabled_keys(live_run: RunDirectory) -> None:
    async def scenario(web_run: WebRun) -> None:
        async with web_run.browser() as browser:
            await browser.until_shown("live (other process)")
            footer = browser.text.splitlines()[-1]
            assert "Stop" not in footer
            assert "Pause" not in footer

    serve_run(scenario)


def test_a_browser_that_sends_too_much_is_disconnected(finished_run: RunDirectory) -> None:
    async def scenario(web_run: WebRun) -> None:
        async with web_run.browser() as browser:
            await browser.socket.send_str("x" * 10_000)
            async with asyncio.timeout(PATIENCE_S):
                while (await browser.socket.receive()).type == aiohttp.WSMsgType.TEXT:
                    pass
            assert browser.socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
            async with web_run.browser() as other:
                await other.until_shown("Training complete")

    serve_run(scenario)


def test_a_browser_that_sends_too_many_keys_is_disconnected_and_others_are_served(
    finished_run: RunDirectory,
) -> None:
    async def scenario(web_run: WebRun) -> None:
        async with web_run.browser() as flood, web_run.browser() as other:
            with contextlib.suppress(aiohttp.ClientError):
                for _ in range(40_000):
                    await flood.socket.send_str("3")
            async with asyncio.timeout(PATIENCE_S):
                while (await flood.socket.receive()).type == aiohttp.WSMsgType.TEXT:
                    pass
            assert flood.socket.close_code in (aiohttp.WSCloseCode.POLICY_VIOLATION, 1006)
            await other.socket.send_str("2")
            await other.until_shown("Training complete")

    serve_run(scenario)


# --- the command -------------------------------------------------------------------------------


@contextlib.contextmanager
def command(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`ida-tui attach … --serve` in a separate process, and the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ida_tui", "attach", *arguments, "--serve", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://127.0.0.1:" in line, process.stderr and process.stderr.read()
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_with_connected_browsers(
    number: signal.Signals, finished_run: RunDirectory
) -> None:
    async def stop_while_connected(process: subprocess.Popen[str], address: str) -> None:
        origin = address.rstrip("/")
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{origin}/socket", origin=origin) as socket,
        ):
            await Browser(socket).until_shown("Training complete")
            process.send_signal(number)
            async with asyncio.timeout(PATIENCE_S):
                while (await socket.receive()).type == aiohttp.WSMsgType.TEXT:
                    pass

    with command(str(RUN)) as (process, address):
        asyncio.run(stop_while_connected(process, address))
        _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_server_while_a_browser_sends_keys_without_end(
    number: signal.Signals, finished_run: RunDirectory
) -> None:
    async def flood_and_stop(process: subprocess.Popen[str], address: str) -> None:
        origin = address.rstrip("/")
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{origin}/socket", origin=origin) as socket,
        ):
            await Browser(socket).until_shown("Training complete")
            with contextlib.suppress(aiohttp.ClientError):
                for sent in range(100_000):
                    await socket.send_str("3")
                    if sent == 500:
                        process.send_signal(number)

    with command(str(RUN)) as (process, address):
        asyncio.run(flood_and_stop(process, address))
        _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "")


MALFORMED_REQUESTS = [
    b"\x00\xff\x16\x03\x01\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    b"GET / HTTP/1.1\r\n: x\r\n\r\n",
    b"GET " + b"/" * 20_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: {host}\r\n\r\n",
    b"GET /\xff%ff%00 HTTP/1.1\r\nHost: {host}\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: -1\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /socket HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\n\r\n",
    b"GET /socket HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nUpgrade: websocket\r\n"
    b"Connection: upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n",
    b"GET /socket HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nUpgrade: websocket\r\n"
    b"Connection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\xff\xff\xff\xff\x81\x02\xff\xff",
]


def test_malformed_requests_print_nothing(finished_run: RunDirectory) -> None:
    with command(str(RUN)) as (process, address):
        host = address.removeprefix("http://").rstrip("/")
        name, port = host.split(":")
        for request in MALFORMED_REQUESTS:
            with socket.create_connection((name, int(port)), timeout=PATIENCE_S) as client:
                client.sendall(request.replace(b"{host}", host.encode()))
                client.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionError):
                    while client.recv(65_536):
                        pass
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "")
    assert "Traceback" not in out


def test_an_occupied_port_is_reported(ida_tui_here: Any, finished_run: RunDirectory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = str(occupied.getsockname()[1])
        done = ida_tui_here("attach", str(RUN), "--serve", "--port", port)
    assert done.code == 2
    assert f"could not listen on port {port} of 127.0.0.1" in done.err
    assert "--port N" in done.err


def test_an_invalid_port_and_a_port_without_serve_are_refused(
    ida_tui_here: Any, finished_run: RunDirectory
) -> None:
    assert ida_tui_here("attach", str(RUN), "--serve", "--port", "70000").code == 2
    assert ida_tui_here("attach", str(RUN), "--port", "8000").code == 2
    with pytest.raises(UsageError):
        server.open_listener(-1)


def test_a_missing_extra_is_reported_with_its_install_command(
    ida_tui_here: Any, finished_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = ida_tui_here("attach", str(RUN), "--serve")
    assert done.code == 2
    assert "uv sync --extra serve" in done.err
    assert "pip install 'ida-tui[serve]'" in done.err


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")
def test_a_real_browser_shows_the_run_and_its_completions(finished_run: RunDirectory) -> None:
    async def view_page(address: str) -> None:
        async with chromium.page(address) as page:
            await page.wait_for_text("Training complete", "read-only")
            await page.press("3")
            await page.wait_for_text(synthetic_run.PROMPT)
            assert (await page.screenshot()).startswith(b"\x89PNG")

    with command(str(RUN)) as (_, address):
        asyncio.run(view_page(address))
