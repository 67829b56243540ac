"""A run in browsers: one app for all of them, to be looked at only, and only from this machine's own page."""

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

WAIT_S = 60.0
RUN = Path("outputs/quickstart/20260101-000000")


class Browser:
    """A client that keeps the picture as the page does."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.rows: dict[int, list[list[Any]]] = {}

    @property
    def text(self) -> str:
        """What it shows."""
        return "\n".join("".join(s[0] for s in row) for _, row in sorted(self.rows.items()))

    async def until(self, true: Callable[[], bool]) -> None:
        """Take in messages until something holds."""
        async with asyncio.timeout(WAIT_S):
            while not true():
                message = json.loads((await self.socket.receive()).data)
                self.rows |= {int(number): row for number, row in message["rows"].items()}

    async def until_shown(self, *words: str) -> None:
        """Take in messages until all of these are on the screen."""
        await self.until(lambda: all(word in self.text for word in words))


class Served:
    """A run that is served, in this process."""

    def __init__(self, app: WebApp, port: int, session: aiohttp.ClientSession) -> None:
        self.app, self.port, self.session = app, port, session

    @contextlib.asynccontextmanager
    async def browser(self, host: str = "127.0.0.1") -> AsyncIterator[Browser]:
        """A page of the server's own that is connected."""
        origin = f"http://{host}:{self.port}"
        async with self.session.ws_connect(f"{origin}/socket", origin=origin) as socket:
            yield Browser(socket)


def served(scenario: Callable[[Served], Awaitable[None]], directory: Path = RUN) -> None:
    """Serve a run, and do something with it."""

    async def main() -> None:
        with server.open_listener(0) as listener:
            port = listener.getsockname()[1]
            gallery = server.Viewers()
            app = WebApp(directory, gallery.send_frame)
            runner = web.AppRunner(
                server.build_web_app(gallery, app.press, port), shutdown_timeout=1.0
            )
            await runner.setup()
            await web.SockSite(runner, listener).start()
            running = asyncio.create_task(app.run_async(headless=True, size=SCREEN_SIZE))
            async with aiohttp.ClientSession() as session:
                try:
                    await scenario(Served(app, port, session))
                finally:
                    app.exit()
                    await running
                    gallery.disconnect_all()
                    await runner.cleanup()

    asyncio.run(main())


@pytest.fixture
def finished() -> RunDirectory:
    """A run of six steps that is done."""
    synthetic_run.write(RUN / "events.jsonl", 6)
    return RunDirectory(RUN.resolve())


@pytest.fixture
def live(finished: RunDirectory) -> Iterator[RunDirectory]:
    """The same run before its end, trained by a process that is there: this one."""
    lines = finished.events.read_text().splitlines(keepends=True)
    finished.events.write_text("".join(lines[:-3]))
    with owner.owned_run(finished):
        yield finished


# --- who may look ----------------------------------------------------------------------------


def test_the_page_needs_nothing_from_elsewhere(finished: RunDirectory) -> None:
    async def scenario(served: Served) -> None:
        for path in ("/", "/page.js", "/page.css"):
            async with served.session.get(f"http://127.0.0.1:{served.port}{path}") as answer:
                text = await answer.text()
                assert answer.status == 200
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
                assert "http:" not in text.replace("http://www.w3.org", "")
                assert "https:" not in text

    served(scenario)


@pytest.mark.parametrize("path", ["/", "/page.js", "/socket"])
@pytest.mark.parametrize(
    "forged",
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
    path: str, forged: dict[str, str], finished: RunDirectory
) -> None:
    async def scenario(served: Served) -> None:
        own = {"Origin": f"http://127.0.0.1:{served.port}"} if path == "/socket" else {}
        headers = own | {k: v.format(port=served.port) for k, v in forged.items()}
        url = f"http://127.0.0.1:{served.port}{path}"
        if path != "/socket":
            async with served.session.get(url, headers=headers) as answer:
                assert answer.status == 403
            return
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await served.session.ws_connect(url, headers=headers)
        assert refused.value.status == 403

    served(scenario)


def test_a_socket_without_an_origin_is_refused(finished: RunDirectory) -> None:
    async def scenario(served: Served) -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await served.session.ws_connect(f"http://127.0.0.1:{served.port}/socket")
        assert refused.value.status == 403

    served(scenario)


def test_only_this_machine_can_connect() -> None:
    with server.open_listener(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


# --- what is seen -----------------------------------------------------------------------------


def test_two_browsers_see_the_same_and_a_late_one_sees_it_whole(finished: RunDirectory) -> None:
    async def scenario(served: Served) -> None:
        async with served.browser() as one, served.browser("localhost") as two:
            await one.until_shown("Training complete", "6 step")
            await two.until(lambda: two.text == one.text)
            async with served.browser() as late:
                await late.until(lambda: bool(late.rows))
                assert late.text == one.text
                assert len(late.rows) == SCREEN_SIZE[1]
                assert {sum(span[1] for span in row) for row in late.rows.values()} == {
                    SCREEN_SIZE[0]
                }

    served(scenario)


def test_a_key_turns_to_another_screen_for_everybody(finished: RunDirectory) -> None:
    async def scenario(served: Served) -> None:
        async with served.browser() as one, served.browser() as two:
            await one.until_shown("Training complete")
            await two.socket.send_str("3")
            await one.until_shown(synthetic_run.PROMPT)
            await two.until(lambda: two.text == one.text)

    served(scenario)


def test_a_live_run_is_followed(live: RunDirectory) -> None:
    async def scenario(served: Served) -> None:
        async with served.browser() as browser:
            await browser.until_shown("live (other process)")
            whole = live.events.with_name("whole.jsonl")
            synthetic_run.write(whole, 6)
            with open(live.events, "a") as file:
                file.writelines(whole.read_text().splitlines(keepends=True)[-3:])
            await browser.until_shown("Training complete")

    served(scenario)


# --- what cannot be done -----------------------------------------------------------------------


def test_no_key_asks_anything_of_the_run_or_leaves_it(live: RunDirectory) -> None:
    keys = {key for action in ACTIONS for key in action.keys} | {"y", "ctrl+c", "", "x" * 90}

    async def scenario(served: Served) -> None:
        async with served.browser() as browser:
            await browser.until_shown("live (other process)")
            for screen in ("2", "3"):
                # The digit is pressed again after each: whatever came up would hide what it shows.
                for key in sorted(keys):
                    for press in (screen, key, "y", "enter"):
                        await browser.socket.send_str(press)
            await browser.socket.send_str("2")
            await browser.until_shown("Progress", "live (other process)")
            assert control.pop_request(live) is None
            assert served.app.screen_stack == [served.app.screen]
            assert served.app.current_mode in ("run", "completions")
            assert served.app.is_running

    before = sorted(path for path in live.path.rglob("*"))
    served(scenario)
    assert sorted(path for path in live.path.rglob("*")) == before
    assert owner.is_alive(live)


def test_what_is_harmless_is_in_the_table_of_actions_and_asks_nothing() -> None:
    assert {action.id for action in ACTIONS} >= READ_ONLY_ACTIONS
    for risky in ("stop", "pause", "detach", "quit", "start", "save", "open", "command_palette"):
        assert risky not in READ_ONLY_ACTIONS
    for writes in ("agree", "disagree", "clear_mark"):
        assert writes not in READ_ONLY_ACTIONS


def test_the_footer_offers_no_key_that_is_refused(live: RunDirectory) -> None:
    async def scenario(served: Served) -> None:
        async with served.browser() as browser:
            await browser.until_shown("live (other process)")
            last = browser.text.splitlines()[-1]
            assert "Stop" not in last
            assert "Pause" not in last

    served(scenario)


def test_a_browser_that_says_too_much_is_let_go(finished: RunDirectory) -> None:
    async def scenario(served: Served) -> None:
        async with served.browser() as browser:
            await browser.socket.send_str("x" * 10_000)
            async with asyncio.timeout(WAIT_S):
                while (await browser.socket.receive()).type == aiohttp.WSMsgType.TEXT:
                    pass
            assert browser.socket.close_code == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
            async with served.browser() as other:
                await other.until_shown("Training complete")

    served(scenario)


# --- the command -------------------------------------------------------------------------------


@contextlib.contextmanager
def command(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`ida-tui attach … --serve` in a process of its own, and the address that it prints."""
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
def test_ctrl_c_ends_it_with_browsers_connected(
    number: signal.Signals, finished: RunDirectory
) -> None:
    async def connected(process: subprocess.Popen[str], address: str) -> None:
        origin = address.rstrip("/")
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{origin}/socket", origin=origin) as socket,
        ):
            await Browser(socket).until_shown("Training complete")
            process.send_signal(number)
            async with asyncio.timeout(WAIT_S):
                while (await socket.receive()).type == aiohttp.WSMsgType.TEXT:
                    pass

    with command(str(RUN)) as (process, address):
        asyncio.run(connected(process, address))
        _, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, err) == (0, "")


def test_a_port_that_is_taken_is_one_clear_error(ida_tui_here: Any, finished: RunDirectory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = ida_tui_here("attach", str(RUN), "--serve", "--port", port)
    assert done.code == 2
    assert f"could not listen on port {port} of 127.0.0.1" in done.err
    assert "--port N" in done.err


def test_a_port_that_is_none_and_a_port_without_serve_are_refused(
    ida_tui_here: Any, finished: RunDirectory
) -> None:
    assert ida_tui_here("attach", str(RUN), "--serve", "--port", "70000").code == 2
    assert ida_tui_here("attach", str(RUN), "--port", "8000").code == 2
    with pytest.raises(UsageError):
        server.open_listener(-1)


def test_without_the_extra_it_says_how_to_install_it(
    ida_tui_here: Any, finished: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = ida_tui_here("attach", str(RUN), "--serve")
    assert done.code == 2
    assert "uv sync --extra serve" in done.err
    assert "pip install 'ida-tui[serve]'" in done.err


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")
def test_a_real_browser_draws_the_run_and_turns_to_its_completions(finished: RunDirectory) -> None:
    async def look(address: str) -> None:
        async with chromium.page(address) as page:
            await page.wait_for_text("Training complete", "read-only")
            await page.press("3")
            await page.wait_for_text(synthetic_run.PROMPT)
            assert (await page.screenshot()).startswith(b"\x89PNG")

    with command(str(RUN)) as (_, address):
        asyncio.run(look(address))
