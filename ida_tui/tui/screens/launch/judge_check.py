"""Dialogs of the checks before a run: known answers, scored by the judge or by the reward functions."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from ida_tui.config.schema import Config, JudgeKey
from ida_tui.config.scoring.reward_files import named_functions
from ida_tui.errors import IdaError
from ida_tui.util.plugin_threads import PluginStopped
from ida_tui.util.text import one_line

CALLS_PER_ANSWER = 3
MARK_STYLES = {"✓": "$text-success", "✗": "bold $text-error", "!": "$text-warning"}


class CheckDialog(ModalScreen[None]):
    """Runs a check in a background thread; closing the panel cancels it.

    Args:
        config: the experiment that is checked.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "close", "Close"),
        Binding("j,down", "scroll(1)", "Down", show=False),
        Binding("k,up", "scroll(-1)", "Up", show=False),
    ]

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._config = config
        self._canceled = threading.Event()

    @property
    def heading(self) -> str:
        """The title of the dialog."""
        raise NotImplementedError

    def report_lines(self) -> list[str] | None:
        """The lines of the report, the last of which sums it up; None if the check was canceled.

        Raises:
            IdaError: the check cannot be made.
        """
        raise NotImplementedError

    def compose(self) -> ComposeResult:
        with Vertical(classes="panel -wide", id="judge-check"):
            yield Static(self.heading, classes="panel-title", markup=False)
            yield Static("Scoring known answers…", id="judge-check-summary", markup=False)
            with VerticalScroll(id="judge-check-scroll"):
                yield Static(id="judge-check-text", markup=False)
            yield Static("\n[b]esc[/] Close   [b]↑↓[/] Scroll")

    def on_mount(self) -> None:
        self._run_check()

    def on_unmount(self) -> None:
        self._canceled.set()

    def action_close(self) -> None:
        """Close the panel."""
        self.dismiss()

    def action_scroll(self, rows: int) -> None:
        """Scroll the report."""
        self.query_one("#judge-check-scroll").scroll_relative(y=rows, animate=False)

    @work(thread=True, exclusive=True)
    def _run_check(self) -> None:
        try:
            lines = self.report_lines()
            if lines is None:
                return
            *details, summary = lines
        except IdaError as error:
            summary, *details = error.lines()
        if not self._canceled.is_set():
            self.app.call_from_thread(self._show_result, summary, details)

    def _show_result(self, summary: str, details: list[str]) -> None:
        self.query_one("#judge-check-summary", Static).update(one_line(summary))
        rows = [_styled_line(one_line(line)) for line in details]
        self.query_one("#judge-check-text", Static).update(Content("\n").join(rows))


class JudgeCheckDialog(CheckDialog):
    """Checks the judge of an experiment.

    Args:
        config: the experiment whose judge and rubric are checked.
        key: the judge's API key, if it needs one.
    """

    def __init__(self, config: Config, key: JudgeKey) -> None:
        super().__init__(config)
        self._key = key

    @property
    def heading(self) -> str:
        """The title of the dialog."""
        judge = self._config.judge
        return f"Check of the judge {judge.name or judge.model}"

    def report_lines(self) -> list[str] | None:
        """The report of the judge check."""
        from ida_tui.judge.calibration.anchors import anchor_prompts
        from ida_tui.judge.calibration.check import check_judge
        from ida_tui.judge.calibration.check_text import render_report
        from ida_tui.judge.calibration.gold import check_judge_on_gold, load_gold_of
        from ida_tui.judge.calibration.mode_tokens import mode_tokens
        from ida_tui.judge.errors import JudgeInterrupted
        from ida_tui.judge.service import JudgeService

        judge, rubric, should_stop = self._config.judge, self._config.rubric, self._canceled.is_set
        gold = load_gold_of(self._config)
        try:
            with JudgeService(judge, rubric, anchor_prompts(), key=self._key) as service:
                service.probe_endpoint().result()
                report = check_judge(
                    service,
                    verdicts_per_anchor=CALLS_PER_ANSWER,
                    reward=rubric.reward_name,
                    should_stop=should_stop,
                )
                form, warnings = service.output_format, service.warnings
            if gold is not None:
                accuracy = check_judge_on_gold(
                    self._config, gold, self._key, should_stop=should_stop
                )
                report = replace(report, gold=accuracy)
            offline, tokens = judge.kind == "offline", mode_tokens(judge, rubric, report)
            text = "" if tokens is None else tokens.text()
            return list(render_report(report, form, warnings, offline=offline, tokens=text))
        except JudgeInterrupted:
            return None


class RewardCheckDialog(CheckDialog):
    """Checks the reward functions of an experiment; its judge, if it has one, is not asked."""

    @property
    def heading(self) -> str:
        """The title of the dialog: the functions whose code runs."""
        functions = ", ".join(label for label, _ in named_functions(self._config.rubric))
        return one_line(f"Check of the reward: {functions}")

    def report_lines(self) -> list[str] | None:
        """The report of the reward check."""
        from ida_tui.rewards.check import check_rewards
        from ida_tui.rewards.check_text import render_report

        try:
            report = check_rewards(self._config, should_stop=self._canceled.is_set)
        except PluginStopped:
            return None
        return list(render_report(report))


def _styled_line(line: str) -> Content:
    style = MARK_STYLES.get(line[:1])
    return Content.assemble((line[:1], style), line[1:]) if style else Content(line)
