"""Screenshot of a report for the README: its top and its first curves, in a real browser.

    uv run ida-tui --run quickstart
    uv run python screenshots/report.py quickstart      # writes screenshots/report.png

The table of the setup, which is between the two, is removed from the page.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ida_tui.analysis.report.write import write_report  # noqa: E402
from ida_tui.runs.catalog.lookup import find_run  # noqa: E402
from tests.support import chromium  # noqa: E402

WIDTH, HEIGHT = 1080, 970
REMOVE_SETUP_SCRIPT = (
    "document.getElementById('setup').parentElement.remove(); document.fonts.ready"
)


async def screenshot(page: Path) -> bytes:
    """Screenshot of the page, as PNG."""
    async with chromium.page(page.resolve().as_uri()) as browser:
        await browser.wait_for_text("This page loads no external resources")
        light_theme = {"name": "prefers-color-scheme", "value": "light"}
        await browser.send("Emulation.setEmulatedMedia", media="", features=[light_theme])
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        await browser.send("Emulation.setDeviceMetricsOverride", **size)
        await browser.send("Emulation.setScrollbarsHidden", hidden=True)
        await browser.send("Runtime.evaluate", expression=REMOVE_SETUP_SCRIPT, awaitPromise=True)
        return await browser.screenshot()


def main(name: str) -> None:
    """Write the screenshot of one run's report."""
    with tempfile.TemporaryDirectory() as folder:
        written = write_report(find_run(name, Path("outputs")), Path(folder))
        (ROOT / "screenshots" / "report.png").write_bytes(asyncio.run(screenshot(written.html)))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "quickstart")
