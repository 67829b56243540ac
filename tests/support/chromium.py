"""A real browser without a window, told what to do over its debugging socket."""

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

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
"""The browser; empty where none is installed."""
WAIT_S = 60.0
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
        self.heard: list[dict[str, Any]] = []
        """What the browser told of by itself, of the domains that were enabled."""

    async def tell(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Carry out one command of the debugging protocol; returns its result."""
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while (answer := await self._socket.receive_json()).get("id") != self._number:
            if "method" in answer:
                self.heard.append(answer)
        result: dict[str, Any] = answer["result"]
        return result

    async def text(self) -> str:
        """The words on the page, line by line."""
        script = "document.body?.innerText ?? ''"  # there is no body at first
        value = (await self.tell("Runtime.evaluate", expression=script))["result"].get("value", "")
        return str(value).replace("\xa0", " ")

    async def until_shown(self, *words: str) -> str:
        """Wait until all of these are on the page; returns everything that is."""
        async with asyncio.timeout(WAIT_S):
            text = await self.text()
            while not all(word in text for word in words):
                await asyncio.sleep(0.1)
                text = await self.text()
        return text

    async def press(self, key: str) -> None:
        """Press a key that is a letter or a digit."""
        for kind in ("keyDown", "keyUp"):
            await self.tell("Input.dispatchKeyEvent", type=kind, key=key, text=key)

    async def picture(self) -> bytes:
        """What it looks like, as PNG."""
        found = await self.tell("Page.captureScreenshot", format="png")
        return base64.b64decode(found["data"])


@contextlib.asynccontextmanager
async def page(address: str) -> AsyncIterator[Page]:
    """A browser with this page open; ended when the block is left."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        process = subprocess.Popen(
            [CHROMIUM, *OPTIONS, f"--user-data-dir={home}", address],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | {"HOME": home},
        )  # fmt: skip
        try:
            async with aiohttp.ClientSession() as session:
                opened = await _opened(session, Path(home) / "DevToolsActivePort", address)
                async with session.ws_connect(opened, max_msg_size=0) as socket:
                    yield Page(socket)
        finally:
            process.terminate()
            process.wait()


async def _opened(session: aiohttp.ClientSession, port: Path, address: str) -> str:
    """The debugging socket of the page."""
    async with asyncio.timeout(WAIT_S):
        while True:
            await asyncio.sleep(0.1)
            with contextlib.suppress(OSError, IndexError, aiohttp.ClientError):
                number = port.read_text().splitlines()[0]
                async with session.get(f"http://127.0.0.1:{number}/json/list") as answer:
                    for found in await answer.json():
                        if found["url"].startswith(address):
                            return str(found["webSocketDebuggerUrl"])
