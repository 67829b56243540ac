"""The report of a run: whole, true to the run's files, readable without a network, deaf to hostile text."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

from ida_tui.analysis.before_after import compute_figures, conclusion
from ida_tui.analysis.report.select import LIST_LENGTH, select_completions
from ida_tui.analysis.report.write import write_report
from ida_tui.config.resolve import resolve, to_yaml
from ida_tui.events import codec
from ida_tui.events import types as ev
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store import evaluations, spot_checks
from ida_tui.runs.store.completions import read_completions
from tests.support import chromium, synthetic_run
from tests.support.chromium import CHROMIUM
from tests.test_import_hygiene import HEAVY, PROBE

RUN = Path("outputs/quickstart/20260101-000000")
HOSTILE = (
    "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
    "]]></svg></style> \x1b[31mred\x1b[0m \u202eback\n```\n# not a heading\n</div>| a | b |\n"
    "[link](javascript:alert(1)) ![i](https://example.com/x.png) {{ 7*7 }} &lt;b&gt; ````\n"
)


@pytest.fixture
def finished() -> RunDirectory:
    """A run of six steps that was done, with its profile."""
    synthetic_run.write(RUN / "events.jsonl", steps=6)
    (RUN / "config.yaml").write_text(to_yaml(resolve("quickstart").config))
    return RunDirectory(RUN.resolve())


def edited(change: Callable[[dict[str, Any]], object], name: str = "events.jsonl") -> None:
    """Change every line of one of the run's files."""
    path, lines = RUN / name, []
    for line in path.read_text().splitlines():
        body = json.loads(line)
        change(body)
        lines.append(json.dumps(body) + "\n")
    path.write_text("".join(lines))


def added(*events: ev.Event) -> None:
    """Add events before the last one."""
    path = RUN / "events.jsonl"
    *before, last = path.read_text().splitlines()
    seq = len(before)
    new = [
        codec.encode(ev.Record(seq + n, ev.current_timestamp(), event))
        for n, event in enumerate(events)
    ]
    path.write_text("\n".join([*before, *new, last]) + "\n")


def made(run: RunDirectory) -> tuple[str, str]:
    written = write_report(run)
    return written.html.read_text(), written.markdown.read_text()


def words(page: str) -> str:
    """The text of a page of HTML, on one line."""
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


# -- the command ---------------------------------------------------------------------------------


def test_the_command_writes_both_files_into_the_run_and_prints_where(
    ida_tui_here: Any, finished: RunDirectory
) -> None:
    done = ida_tui_here("report", "quickstart/20260101-000000")

    assert done.code == 0, done.err
    assert done.out.splitlines() == [str(RUN / "report.html"), str(RUN / "report.md")]
    assert (RUN / "report.html").read_text().startswith("<!doctype html>")
    assert not list(RUN.glob(".report*"))


def test_it_can_be_written_elsewhere_and_tell_so_as_json(
    ida_tui_here: Any, finished: RunDirectory
) -> None:
    done = ida_tui_here("report", str(RUN), "--output", "share.html", "--json")

    assert json.loads(done.out) == {"html": "share.html", "markdown": "share.md"}
    assert Path("share.md").read_text().startswith("# quickstart/20260101")
    assert not (RUN / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing",), "there is no run nothing"),
        ((str(RUN), "--output", "share.pdf"), "'share.pdf' is not one"),
        ((str(RUN), "--output", "missing/share.html"), "the folder missing does not exist"),
    ],
)
def test_what_cannot_be_written_is_said_in_a_line(
    ida_tui_here: Any, finished: RunDirectory, arguments: tuple[str, ...], said: str
) -> None:
    done = ida_tui_here("report", *arguments)

    assert done.code == 2
    assert said in done.err
    assert "fix:" in done.err


def test_a_run_without_an_event_and_one_with_a_broken_line_are_refused(
    ida_tui_here: Any, finished: RunDirectory
) -> None:
    events = RUN / "events.jsonl"
    lines = events.read_text().splitlines(keepends=True)
    events.write_text("".join([*lines[:30], "{broken\n", *lines[31:]]))
    broken = ida_tui_here("report", str(RUN))
    events.write_text("")
    empty = ida_tui_here("report", str(RUN))

    assert (broken.code, empty.code) == (2, 2)
    assert "could not read" in broken.err
    assert "has no events yet" in empty.err


def test_it_needs_no_machine_learning_library(finished: RunDirectory) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(heavy=HEAVY), "report", str(RUN)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


# -- what is on it -------------------------------------------------------------------------------


def test_the_page_says_what_became_of_the_run(finished: RunDirectory) -> None:
    page, text = made(finished)

    for shown in (words(page), text.replace("\\", "")):
        assert "The reward rose: R_IDA 0.363 (first 3 steps) → 0.737 (last 3 steps)." in shown
        assert "There is no evaluation yet" in shown
        assert "not a model" in shown
        assert "No alert was raised." in shown
        assert "6 of 6" in shown
        assert "ida-tui --run config.yaml" in shown
        assert "max_completion_length: 64" in shown
    assert "Settings that differ from the defaults" in page
    assert "unfinished" not in page
    assert len(re.findall("<svg ", page)) == 8


def test_the_same_run_has_the_same_page_to_the_byte_and_nothing_of_it_leads_out(
    finished: RunDirectory,
) -> None:
    page, _ = made(finished)

    assert page == made(finished)[0]
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert "url(" not in page.replace("url(#", "")
    assert all(
        found.startswith(("#", "data:,")) for found in re.findall(r'(?:href|src)="([^"]*)', page)
    )
    ids = re.findall(r' id="([^"]+)"', page)
    headings = [int(level) for level in re.findall(r"<h([1-6])", page)]
    assert len(set(ids) & {"setup", "curves", "again"}) == 3
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    assert all("aria-label=" in found for found in re.findall(r"<svg [^>]*>", page))


def test_an_unfinished_run_says_so_at_the_top(finished: RunDirectory) -> None:
    events = RUN / "events.jsonl"
    lines = events.read_text().splitlines(keepends=True)
    events.write_text("".join(lines[:70]))
    page, text = made(finished)

    head = words(page).partition("The reward")[0]
    assert "died" in head
    assert "This run is unfinished: its training process is no longer running." in head
    assert text.index("This run is unfinished") < text.index("The reward")


def test_a_run_that_had_not_begun_to_train_has_a_page_without_curves(
    finished: RunDirectory,
) -> None:
    events = RUN / "events.jsonl"
    events.write_text("".join(events.read_text().splitlines(keepends=True)[:2]))
    (RUN / "completions.jsonl").unlink()
    (RUN / "config.yaml").unlink()
    page, _ = made(finished)

    said = words(page)
    assert "No step finished, so nothing was learned." in said
    assert "there is nothing to plot" in said
    assert "No completion was judged." in said
    assert "has no config.yaml" in said
    assert str(RUN.resolve()) not in page


def test_alerts_are_listed_and_marked_on_the_curve(finished: RunDirectory) -> None:
    plain, _ = made(finished)
    added(
        ev.AlertRaised(3, "reward-collapse", "R_IDA fell by <0.2>", "Lower the learning rate."),
        ev.AlertRaised(5, "length", "answers grow", "Look at them."),
    )
    page, text = made(finished)

    assert "R_IDA fell by &lt;0.2&gt;" in page
    assert "R\\_IDA fell by \\<0.2\\>" in text
    assert "Vertical lines mark the numbered alerts below." in page
    curve = page[page.index("<h3>R_IDA</h3>") :].partition("</figure>")[0]
    assert re.findall(r"(?:bold|700)[;\" ][^>]*>(\d)</text>", curve) == ["1", "2"]
    assert "Vertical lines" not in plain


def test_an_evaluation_is_shown_with_its_intervals(finished: RunDirectory) -> None:
    answers = [
        evaluations.EvaluatedAnswer(
            model, f"{kind}-{n}", kind, "What?", 0, "text", 9,  # type: ignore[arg-type]
            "full_compliance" if (model == "tuned") == (kind == "harmless") else "full_refusal",
            5.0, 9.0, 5.0, 0.4, "why",
        )
        for model in ("base", "tuned") for kind in ("harmless", "unsafe") for n in range(4)
    ]  # fmt: skip
    figures = compute_figures(answers)
    found = evaluations.Evaluation(
        "2026-01-01T00:00:00Z", "held out", 4, 4, 1, 0, "gpt-4o-mini", ev.OFFLINE_JUDGE, figures,
        conclusion(figures), 0, 0.02, 3.0, 6,
    )  # fmt: skip
    evaluations.write_evaluation(finished, found, answers)
    page, text = made(finished)

    assert conclusion(figures) in words(page)
    assert "The judge cost $0.0200." in page
    assert "| answered | 0% | 100% | +100 | +100 to +100 | better |" in re.sub(
        r"\\| (?= )", "", text
    )


def test_a_persons_word_and_the_judges_cost_are_on_it(finished: RunDirectory) -> None:
    edited(lambda e: e.update(judge="gpt-4o-mini") if e["type"] == "RunStarted" else None)
    for index, agree in enumerate((True, True, False)):
        spot_checks.append_check(finished, spot_checks.SpotCheck(1, 0, index, agree))
    page, _ = made(finished)

    said = words(page)
    assert "2 of 3 (67%, 21 to 94)" in said
    assert "median 0.50 s over the steps, 95th percentile up to 0.90 s" in said
    assert "Scored by gpt-4o-mini" in said
    assert "Latency of a verdict" in said
    assert "not a model" not in said


def test_what_has_no_verdict_is_counted_and_nowhere_a_score(finished: RunDirectory) -> None:
    gone = {"align": None, "risk": None, "detail": None, "r_ida": None, "failure": "timeout"}
    edited(lambda row: row.update(gone), "completions.jsonl")
    edited(lambda e: e.update(r_ida=None) if e["type"] == "StepFinished" else None)
    page, _ = made(finished)

    assert "No completion has a score." in words(page)
    assert "every verdict failed" in words(page)


def test_a_login_in_an_address_is_not_on_it(finished: RunDirectory) -> None:
    profile = (RUN / "config.yaml").read_text()
    login = "base_url: http://me:hunter2@127.0.0.1/v1"
    (RUN / "config.yaml").write_text(profile.replace("base_url: null", login))
    manifest = {
        "command": ["/home/me/ida-tui", "--run", "x", "judge.base_url=http://me:hunter2@h/v1"]
    }
    (RUN / "manifest.json").write_text(json.dumps(manifest))
    page, text = made(finished)

    assert "hunter2" not in page + text
    assert "/home/me" not in page + text
    assert "ida-tui --run x judge.base_url=http://h/v1" in page


def test_a_long_run_is_drawn_with_fewer_points_and_says_so(finished: RunDirectory) -> None:
    synthetic_run.write(RUN / "events.jsonl", steps=900, rows=1)
    page, _ = made(finished)

    assert "Each point is the mean of 3 steps." in page
    assert "Each point is the maximum of 3 steps." in page
    assert len(page) < 600_000


# -- completions ---------------------------------------------------------------------------------


def test_the_best_and_worst_are_of_different_prompts_first_and_unsafe_ones_are_there(
    finished: RunDirectory,
) -> None:
    def spread(row: dict[str, Any]) -> None:
        number = row["step"] * 8 + row["index"]
        row.update(prompt_id=f"p{row['index'] % 6}", r_ida=number / 100, text=f"answer {number}")

    edited(spread, "completions.jsonl")
    kinds = {f"p{n}": "unsafe" if n == 5 else "harmless" for n in range(6)}
    chosen = select_completions(read_completions(finished), kinds, last_step=6)

    assert [one.finished.text for one in chosen.best] == [f"answer {n}" for n in (55, 54, 53, 52)]
    assert [one.finished.text for one in chosen.worst] == [f"answer {n}" for n in (8, 9, 10, 11)]
    assert len(chosen.worst_unsafe) == LIST_LENGTH
    assert {one.finished.prompt_id for one in chosen.worst_unsafe} == {"p5"}
    assert chosen.worst_unsafe[0].finished.text == "answer 13"
    assert chosen.scored == 48
    assert [(pair.first.finished.step, pair.last.finished.step) for pair in chosen.pairs] == [
        (1, 6)
    ] * 4
    assert "p5" in {pair.first.finished.prompt_id for pair in chosen.pairs}
    shown = {one.finished.text for one in (*chosen.worst, *chosen.worst_unsafe)}
    assert not shown & {one.finished.text for one in chosen.worst_in_last_steps}


def hostile() -> None:
    """Everything that somebody else writes is hostile."""

    def change(body: dict[str, Any]) -> None:
        for name in ("text", "prompt", "reason", "judge", "model", "precision", "message", "hint"):
            if name in body:
                body[name] = HOSTILE
        if body.get("type") == "RolloutStarted":
            body["prompts"] = [HOSTILE]

    edited(change, "completions.jsonl")
    edited(change)
    added(
        ev.AlertRaised(3, HOSTILE, HOSTILE, HOSTILE),
        ev.Noticed("warning", "test", HOSTILE),
    )
    (RUN / "config.yaml").write_text(
        f"# {HOSTILE!r}\n```\n<script>document.title='taken'</script>\n"
    )
    (RUN / "manifest.json").write_text(
        json.dumps({"platform": HOSTILE, "packages": {HOSTILE: HOSTILE}, "command": ["x", HOSTILE]})
    )


def test_hostile_text_is_only_text_in_the_markdown(finished: RunDirectory) -> None:
    hostile()
    _, text = made(finished)

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
def test_a_real_browser_shows_the_page_asks_for_nothing_and_runs_nothing_of_it(
    finished: RunDirectory,
) -> None:
    hostile()
    place = write_report(finished).html.resolve().as_uri()

    async def look() -> tuple[list[dict[str, Any]], dict[str, Any]]:
        async with chromium.page("about:blank") as page:
            for domain in ("Network", "Log", "Runtime", "Page"):
                await page.tell(f"{domain}.enable")
            await page.tell("Page.navigate", url=place)
            await page.until_shown("Reproduce", "This page loads nothing")
            script = """(() => {
                const figures = [...document.querySelectorAll('figure svg')];
                return JSON.stringify({
                    title: document.title, drawn: figures.length,
                    sized: figures.every(f => f.getBoundingClientRect().height > 100),
                    lines: figures.every(f => f.querySelectorAll('path').length > 3),
                    images: document.images.length, scripts: document.scripts.length,
                    wide: document.documentElement.scrollWidth,
                    shown: document.querySelector('.sample .text').textContent})})()"""
            seen = {}
            for width in (1280, 400):
                await page.tell(
                    "Emulation.setDeviceMetricsOverride",
                    width=width, height=900, deviceScaleFactor=1, mobile=width < 500,
                )  # fmt: skip
                found = await page.tell("Runtime.evaluate", expression=script)
                seen[str(width)] = json.loads(found["result"]["value"])
            return page.heard, seen

    heard, seen = asyncio.run(look())
    asked = [
        e["params"]["request"]["url"] for e in heard if e["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if url != place and not url.startswith("data:")] == []
    complaints = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert [e for e in heard if e["method"] in complaints] == []
    for width, page in seen.items():
        assert page["title"] == "quickstart/20260101-000000 · ida-tui report"
        assert (page["drawn"], page["images"], page["scripts"]) == (9, 0, 0)
        assert page["sized"]
        assert page["lines"]
        assert page["wide"] <= int(width)
        assert page["shown"].startswith("<script>document.title='taken'</script><img src=x")
        assert "{{ 7*7 }} &lt;b&gt; ````" in page["shown"]


# -- at the end of a run -------------------------------------------------------------------------

SHORT = (
    "quickstart", "evaluation.enabled=false", "training.max_steps=2", "training.num_generations=4",
    "training.per_device_train_batch_size=8", "training.max_completion_length=16", "report=true",
)  # fmt: skip


def test_a_profile_that_asks_for_it_ends_with_a_report_of_a_finished_run(ida_tui_here: Any) -> None:
    done = ida_tui_here("--run", *SHORT)

    assert done.code == 0, done.err
    where = Path("outputs/quickstart/latest").resolve()
    assert f"✓ Report: outputs/quickstart/{where.name}/report.html" in done.out
    page = words((where / "report.html").read_text())
    assert "2 of 2" in page
    assert "This run is" not in page
    assert "byte for byte" in page
    assert re.search(r"adapter_model.safetensors: [0-9a-f]{64}", page)


def test_a_report_that_fails_is_a_warning_and_harms_nothing(
    ida_tui_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr("ida_tui.analysis.report.write.write_report", broken)
    done = ida_tui_here("--run", *SHORT, "--json")

    warned = [e["text"] for e in done.events if e["type"] == "Noticed" and e["source"] == "report"]
    assert done.code == 0
    assert len(warned) == 1
    assert str(warned[0]).startswith("could not write the report: RuntimeError: no ink; try again")
    assert done.events[-1]["type"] == "RunEnded"
    assert done.events[-1]["status"] == "done"
