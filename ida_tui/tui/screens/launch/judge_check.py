"""Dialog of the judge check: scores ten known answers with the selected judge before a run."""

from __future__ import annotations

import threading
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from ida_tui.config.schema import Config
from ida_tui.errors import IdaError
from ida_tui.util.text import printable

SAMPLES = 3
STYLES = {"✓": "$text-success", "✗": "bold $text-error", "!": "$text-warning"}


class JudgeCheckPanel(ModalScreen[None]):
    """Runs the check in a background thread; closing the panel cancels it.

    Args:
        config: the experiment whose judge and rubric are checked.
        key: the judge's API key, if it needs one.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "leave", "Close"),
        Binding("j,down", "scroll(1)", "Down", show=False),
        Binding("k,up", "scroll(-1)", "Up", show=False),
    ]

    def __init__(self, config: Config, key: str | None) -> None:
        super().__init__()
        self._config = config
        self._key = key
        self._leaving = threading.Event()

    def compose(self) -> ComposeResult:
        judge = self._config.judge
        with Vertical(classes="panel -wide", id="judge-check"):
            name = judge.name or judge.model
            yield Static(f"Check of the judge {name}", classes="panel-title", markup=False)
            waiting = "Scoring ten known answers…"
            yield Static(waiting, id="judge-check-lesson", markup=False)
            with VerticalScroll(id="judge-check-scroll"):
                yield Static(id="judge-check-text", markup=False)
            yield Static("\n[b]esc[/] Close   [b]↑↓[/] Scroll")

    def on_mount(self) -> None:
        self._check()

    def on_unmount(self) -> None:
        self._leaving.set()

    def action_leave(self) -> None:
        """Close the panel."""
        self.dismiss()

    def action_scroll(self, rows: int) -> None:
        """Scroll the report."""
        self.query_one("#judge-check-scroll").scroll_relative(y=rows, animate=False)

    @work(thread=True, exclusive=True)
    def _check(self) -> None:
        from ida_tui.judge.calibration.anchors import sample_prompts
        from ida_tui.judge.calibration.check import check
        from ida_tui.judge.calibration.check_text import lines
        from ida_tui.judge.service import JudgeInterrupted, JudgeService

        judge = self._config.judge
        try:
            with JudgeService(
                judge, self._config.rubric, sample_prompts(), key=self._key
            ) as service:
                service.look().result()
                report = check(service, samples=SAMPLES, should_stop=self._leaving.is_set)
                offline = judge.kind == "offline"
                *details, summary = lines(report, service.form, service.warnings, offline=offline)
        except JudgeInterrupted:
            return
        except IdaError as error:
            summary, *details = error.lines()
        if not self._leaving.is_set():
            self.app.call_from_thread(self._show, summary, details)

    def _show(self, summary: str, details: list[str]) -> None:
        self.query_one("#judge-check-lesson", Static).update(printable(summary))
        rows = [_styled(printable(line)) for line in details]
        self.query_one("#judge-check-text", Static).update(Content("\n").join(rows))


def _styled(line: str) -> Content:
    style = STYLES.get(line[:1])
    return Content.assemble((line[:1], style), line[1:]) if style else Content(line)
