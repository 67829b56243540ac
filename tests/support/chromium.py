"""A headless Chromium controlled through its debugging socket."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.patience import PATIENCE_S

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
"""Path of the browser; empty if none is installed."""
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-port=0", "--window-size=1280,860",
)  # fmt: skip


class Page:
    """One page of the browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self.events: list[dict[str, Any]] = []
        """Events that the browser sent, from the domains that were enabled."""

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Run one command of the debugging protocol and return its result."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while (reply := await self._socket.receive_json()).get("id") != self._number:
            if "method" in reply:
                self.events.append(reply)
        result: dict[str, Any] = reply["result"]
        return result

    async def text(self) -> str:
        """The text on the page, line by line."""
        script = "document.body?.innerText ?? ''"  # the body does not exist at first
        value = (await self.send("Runtime.evaluate", expression=script))["result"].get("value", "")
        return str(value).replace("\xa0", " ")

    async def wait_for_text(self, *texts: str) -> str:
        """Wait until all of these texts are on the page; returns the text of the page."""
        async with asyncio.timeout(PATIENCE_S):
            text = await self.text()
            while not all(expected in text for expected in texts):
                await asyncio.sleep(0.1)
                text = await self.text()
        return text

    async def press(self, key: str) -> None:
        """Press a letter or digit key."""
        for kind in ("keyDown", "keyUp"):
            await self.send("Input.dispatchKeyEvent", type=kind, key=key, text=key)

    async def screenshot(self) -> bytes:
        """A screenshot of the page, as PNG."""
        result = await self.send("Page.captureScreenshot", format="png")
        return base64.b64decode(result["data"])


@contextlib.asynccontextmanager
async def page(address: str) -> AsyncIterator[Page]:
    """A browser with this page open; it is closed at the end of the block."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        process = subprocess.Popen(
            [CHROMIUM, *OPTIONS, f"--user-data-dir={home}", address],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"HOME": home},
        )  # fmt: skip
        try:
            async with aiohttp.ClientSession() as session:
                opened = await _debugger_address(
                    session, Path(home) / "DevToolsActivePort", address
                )
                async with session.ws_connect(opened, max_msg_size=0) as socket:
                    yield Page(socket)
        finally:
            process.terminate()
            process.wait()


async def _debugger_address(session: aiohttp.ClientSession, port: Path, address: str) -> str:
    """Address of the page's debugging socket."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await asyncio.sleep(0.1)
            with contextlib.suppress(OSError, IndexError, aiohttp.ClientError):
                number = port.read_text().splitlines()[0]
                async with session.get(f"http://127.0.0.1:{number}/json/list") as reply:
                    for target in await reply.json():
                        if target["url"].startswith(address):
                            return str(target["webSocketDebuggerUrl"])
