"""Report of a run with hostile text in every field, as Markdown and in a real browser."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from markdown_it import MarkdownIt

from ida_tui.analysis.report.write import write_report
from ida_tui.events import types as ev
from ida_tui.runs.directory import RunDirectory
from tests.analysis.reported_run import RUN, edit_lines, insert_events, write_and_read
from tests.support import chromium
from tests.support.chromium import CHROMIUM

HOSTILE = (
    "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
    "]]></svg></style> \x1b[31mred\x1b[0m \u202eback\n```\n# not a heading\n</div>| a | b |\n"
    "[link](javascript:alert(1)) ![i](https://example.com/x.png) {{ 7*7 }} &lt;b&gt; ````\n"
)


def make_hostile() -> None:
    """Put hostile text into every field that ida-tui does not write itself."""

    def change(body: dict[str, Any]) -> None:
        for name in ("text", "prompt", "reason", "judge", "model", "precision", "message", "hint"):
            if name in body:
                body[name] = HOSTILE
        if body.get("type") == "RolloutStarted":
            body["prompts"] = [HOSTILE]

    edit_lines(change, "completions.jsonl")
    edit_lines(change)
    insert_events(
        ev.AlertRaised(3, HOSTILE, HOSTILE, HOSTILE),
        ev.Noticed("warning", "test", HOSTILE),
    )
    (RUN / "config.yaml").write_text(
        f"# {HOSTILE!r}\n```\n<script>document.title='taken'</script>\n"
    )
    (RUN / "manifest.json").write_text(
        json.dumps({"platform": HOSTILE, "packages": {HOSTILE: HOSTILE}, "command": ["x", HOSTILE]})
    )


def test_hostile_text_stays_plain_text_in_the_markdown(finished: RunDirectory) -> None:
    make_hostile()
    _, text = write_and_read(finished)

    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    inline = [child for token in tokens for child in token.children or []]
    headings = [tokens[n + 1].content for n, t in enumerate(tokens) if t.type == "heading_open"]
    assert not [t for t in (*tokens, *inline) if t.type in ("html_block", "html_inline")]
    assert not [t for t in inline if t.type in ("link_open", "image", "code_inline")]
    assert not [h for h in headings if "not a heading" in h]
    assert any("<script>document.title" in t.content for t in tokens if t.type == "fence")
    assert any("<script>document.title" in t.content for t in inline if t.type == "text")
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed")
def test_a_real_browser_shows_the_page_without_requests_or_scripts(
    finished: RunDirectory,
) -> None:
    make_hostile()
    address = write_report(finished).html.resolve().as_uri()

    async def inspect() -> tuple[list[dict[str, Any]], dict[str, Any]]:
        async with chromium.page("about:blank") as page:
            for domain in ("Network", "Log", "Runtime", "Page"):
                await page.send(f"{domain}.enable")
            await page.send("Page.navigate", url=address)
            await page.wait_for_text("Reproduce", "This page loads no external resources")
            script = """(() => {
                const figures = [...document.querySelectorAll('figure svg')];
                return JSON.stringify({
                    title: document.title, drawn: figures.length,
                    sized: figures.every(f => f.getBoundingClientRect().height > 100),
                    lines: figures.every(f => f.querySelectorAll('path').length > 3),
                    images: document.images.length, scripts: document.scripts.length,
                    wide: document.documentElement.scrollWidth,
                    shown: document.querySelector('.sample .text').textContent})})()"""
            layouts = {}
            for width in (1280, 400):
                await page.send(
                    "Emulation.setDeviceMetricsOverride",
                    width=width, height=900, deviceScaleFactor=1, mobile=width < 500,
                )  # fmt: skip
                result = await page.send("Runtime.evaluate", expression=script)
                layouts[str(width)] = json.loads(result["result"]["value"])
            return page.events, layouts

    browser_events, layouts = asyncio.run(inspect())
    requests = [
        e["params"]["request"]["url"]
        for e in browser_events
        if e["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in requests if url != address and not url.startswith("data:")] == []
    complaints = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert [e for e in browser_events if e["method"] in complaints] == []
    for width, page in layouts.items():
        assert page["title"] == "quickstart/20260101-000000 · ida-tui report"
        assert (page["drawn"], page["images"], page["scripts"]) == (9, 0, 0)
        assert page["sized"]
        assert page["lines"]
        assert page["wide"] <= int(width)
        assert page["shown"].startswith("<script>document.title='taken'</script><img src=x")
        assert "{{ 7*7 }} &lt;b&gt; ````" in page["shown"]
