"""One completion in full, and the completions of a group side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import HorizontalScroll, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from ida_tui.tui.screens.completions.rows import Sample, about
from ida_tui.tui.widgets import format as words
from ida_tui.util.text import printable

NARROWEST = 30
"""Columns of one completion side by side."""


class SampleView(VerticalScroll, can_focus=True):
    """Prompt, text, scores and reason of one completion."""

    def __init__(self) -> None:
        super().__init__(id="sample", classes="pane")
        self._drawn: Content | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="sample-text", markup=False)

    def show(self, sample: Sample | None, searched: Sequence[str]) -> None:
        """Show a completion; the words that were searched for stand out."""
        if sample is None:
            title, text = "Completion", Content("")
        else:
            title = f"Completion {sample.group}·{sample.index}"
            text = full_text(sample, searched)
        if text != self._drawn:
            self._drawn = text
            self.border_title = Content(title)
            self.query_one("#sample-text", Static).update(text)


def full_text(sample: Sample, searched: Sequence[str] = ()) -> Content:
    """Everything about a completion."""
    kind = f" · {sample.kind}" if sample.kind else ""
    return Content("\n").join(
        [
            Content.assemble((printable(f"prompt {sample.prompt_id}{kind}"), "dim")),
            marked(sample.prompt, searched),
            Content(""),
            Content.assemble(
                ("completion" + (f" · {sample.remarks}" if sample.remarks else ""), "dim")
            ),
            marked(sample.text or "…", searched, style="bold"),
            Content(""),
            *(marked(line, searched) for line in about(sample)),
        ]
    )


def marked(text: str, searched: Sequence[str], style: str = "") -> Content:
    """A text of any origin, shown literally, with the words that were searched for reversed."""
    shown = "\n".join(printable(line) for line in text.splitlines())
    content = Content.styled(shown, style) if style else Content(shown)
    for word in searched:
        for match in re.finditer(re.escape(word), shown, re.IGNORECASE):
            content = content.stylize("reverse bold", match.start(), match.end())
    return content


class SideBySide(Vertical):
    """The completions of one group as columns; the chosen one has the heavy frame."""

    def __init__(self) -> None:
        super().__init__(id="side")
        self._drawn: tuple[object, ...] = ()

    def compose(self) -> ComposeResult:
        yield Static(id="side-prompt", classes="pane", markup=False)
        yield HorizontalScroll(id="side-columns", can_focus=True)

    async def show(
        self, samples: Sequence[Sample], chosen: Sample, searched: Sequence[str]
    ) -> None:
        """Show the group of the chosen completion."""
        group = [s for s in samples if s.group == chosen.group]
        drawn = (tuple(group), chosen.place, tuple(searched), self.size.width)
        if drawn == self._drawn or not group:
            return
        self._drawn = drawn
        kind = f" · {chosen.kind}" if chosen.kind else ""
        prompt = self.query_one("#side-prompt", Static)
        prompt.border_title = Content(printable(f"Group {chosen.group} · {chosen.prompt_id}{kind}"))
        prompt.update(marked(chosen.prompt, searched))
        columns = self.query_one("#side-columns", HorizontalScroll)
        shown = list(columns.query(Static))
        if len(shown) != len(group):
            await columns.remove_children()
            shown = [Static(classes="pane side-column", markup=False) for _ in group]
            await columns.mount(*shown)
        width = max(NARROWEST, self.size.width // len(group))
        for column, sample in zip(shown, group, strict=True):
            column.styles.width = width
            column.set_class(sample.place == chosen.place, "-chosen")
            column.border_title = Content(f"{sample.group}·{sample.index}")
            column.update(_column(sample, searched))
            if sample.place == chosen.place:
                columns.scroll_to_widget(column, animate=False)


def _column(sample: Sample, searched: Sequence[str]) -> Content:
    scored = sample.scored
    advantage = "" if sample.advantage is None else f" adv. {words.signed(sample.advantage, 2)}"
    scores = (
        f"align {scored.align:g} risk {scored.risk:g} detail {scored.detail:g}"
        if scored is not None and scored.r_ida is not None
        else sample.remarks or "not judged yet"
    )
    reason = scored.reason if scored is not None else ""
    return Content("\n").join(
        [
            Content.assemble((f"R_IDA {words.number(sample.reward, 3)}{advantage}", "bold")),
            Content.assemble((scores, "dim")),
            Content(""),
            marked(sample.text or "…", searched),
            Content(""),
            Content.assemble((printable(reason), "dim")),
        ]
    )
