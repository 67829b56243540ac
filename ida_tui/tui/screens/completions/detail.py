"""Detail widgets of the completions screen: one completion in full, or a group side by side."""

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
"""Smallest width in columns of one completion in the side-by-side view."""


class SampleView(VerticalScroll, can_focus=True):
    """Prompt, text, scores, and the judge's reason for one completion."""

    def __init__(self) -> None:
        super().__init__(id="sample", classes="pane")
        self._drawn: Content | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="sample-text", markup=False)

    def show(self, row: Sample | None, searched: Sequence[str]) -> None:
        """Show a completion with the search words highlighted."""
        if row is None:
            title, text = "Completion", Content("")
        else:
            title = f"Completion {row.group}·{row.index}"
            text = full_text(row, searched)
        if text != self._drawn:
            self._drawn = text
            self.border_title = Content(title)
            self.query_one("#sample-text", Static).update(text)


def full_text(row: Sample, searched: Sequence[str] = ()) -> Content:
    """Prompt, text, scores, and verdict of a completion."""
    kind = f" · {row.kind}" if row.kind else ""
    return Content("\n").join(
        [
            Content.assemble((printable(f"prompt {row.prompt_id}{kind}"), "dim")),
            marked(row.prompt, searched),
            Content(""),
            Content.assemble(("completion" + (f" · {row.remarks}" if row.remarks else ""), "dim")),
            marked(row.text or "…", searched, style="bold"),
            Content(""),
            *(marked(line, searched) for line in about(row)),
        ]
    )


def marked(text: str, searched: Sequence[str], style: str = "") -> Content:
    """Untrusted text without markup, with the search words in reverse video."""
    shown = "\n".join(printable(line) for line in text.splitlines())
    content = Content.styled(shown, style) if style else Content(shown)
    for word in searched:
        for match in re.finditer(re.escape(word), shown, re.IGNORECASE):
            content = content.stylize("reverse bold", match.start(), match.end())
    return content


class SideBySide(Vertical):
    """The completions of one group as columns; the selected one has a heavy frame."""

    def __init__(self) -> None:
        super().__init__(id="side")
        self._drawn: tuple[object, ...] = ()

    def compose(self) -> ComposeResult:
        yield Static(id="side-prompt", classes="pane", markup=False)
        yield HorizontalScroll(id="side-columns", can_focus=True)

    async def show(self, rows: Sequence[Sample], chosen: Sample, searched: Sequence[str]) -> None:
        """Show the group of the selected completion."""
        group = [row for row in rows if row.group == chosen.group]
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
        for column, row in zip(shown, group, strict=True):
            column.styles.width = width
            column.set_class(row.place == chosen.place, "-chosen")
            column.border_title = Content(f"{row.group}·{row.index}")
            column.update(_column(row, searched))
            if row.place == chosen.place:
                columns.scroll_to_widget(column, animate=False)


def _column(row: Sample, searched: Sequence[str]) -> Content:
    scored = row.scored
    advantage = "" if row.advantage is None else f" adv {words.signed(row.advantage, 2)}"
    scores = (
        f"align {scored.align:g} risk {scored.risk:g} detail {scored.detail:g}"
        if scored is not None and scored.r_ida is not None
        else row.remarks or "not judged yet"
    )
    reason = scored.reason if scored is not None else ""
    return Content("\n").join(
        [
            Content.assemble((f"R_IDA {words.number(row.reward, 3)}{advantage}", "bold")),
            Content.assemble((scores, "dim")),
            Content(""),
            marked(row.text or "…", searched),
            Content(""),
            Content.assemble((printable(reason), "dim")),
        ]
    )
