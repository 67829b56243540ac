"""Detail widgets of the completions screen: one completion in full, or a group side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import HorizontalScroll, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from ida_tui.config.conversation import context_lines
from ida_tui.tui.screens.completions.rows import CompletionRow, verdict_lines
from ida_tui.tui.widgets.thought import thought_line
from ida_tui.util.format import (
    UNKNOWN,
    format_count,
    format_general,
    format_number,
    format_signed,
    format_significant,
)
from ida_tui.util.text import one_line

MIN_COLUMN_WIDTH = 30
"""Smallest width in columns of one completion in the side-by-side view."""


class CompletionDetail(VerticalScroll, can_focus=True):
    """Prompt, text, scores, and the judge's reason for one completion."""

    def __init__(self) -> None:
        super().__init__(id="completion", classes="pane")
        self._drawn: Content | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="completion-text", markup=False)

    def show_row(
        self, row: CompletionRow | None, search_words: Sequence[str], *, unfold: bool
    ) -> None:
        """Show a completion with the search words highlighted, and its thought if `unfold`."""
        if row is None:
            title, text = "Completion", Content("")
        else:
            title = f"Completion {row.group}·{row.index}"
            text = render_row(row, search_words, unfold=unfold)
        if text != self._drawn:
            self._drawn = text
            self.border_title = Content(title)
            self.query_one("#completion-text", Static).update(text)


def render_row(
    row: CompletionRow, search_words: Sequence[str] = (), *, unfold: bool = False
) -> Content:
    """Prompt, text, scores, and verdict of a completion; its thought only if `unfold`."""
    kind = f" · {row.kind}" if row.kind else ""
    return Content("\n").join(
        [
            Content.assemble((one_line(f"prompt {row.prompt_id}{kind}"), "dim")),
            *(highlight(line, search_words, style="dim") for line in context_lines(row.context)),
            highlight(row.prompt, search_words),
            Content(""),
            Content.assemble(("completion" + (f" · {row.notes}" if row.notes else ""), "dim")),
            *_render_text(row, search_words, unfold, "bold"),
            Content(""),
            *(highlight(line, search_words) for line in verdict_lines(row)),
        ]
    )


def _render_text(
    row: CompletionRow, search_words: Sequence[str], unfold: bool, style: str = ""
) -> list[Content]:
    """The answer, after one line that stands for its thought; also the thought if `unfold`.

    A thought that contains a search word is shown, too.
    """
    parts = row.parts
    if not (parts.thought or parts.unfinished):
        return [highlight(row.text or "…", search_words, style)]
    tokens = f", {format_count(row.finished.thought_tokens, 'token')}" if row.finished else ""
    found = any(word.casefold() in parts.thought.casefold() for word in search_words)
    unfold = unfold or found
    lines = [thought_line(tokens, unfold=unfold)]
    if unfold:
        lines.append(highlight(parts.thought, search_words, "dim"))
    if parts.answer or not parts.unfinished:
        lines.append(highlight(parts.answer or "…", search_words, style))
    return lines


def highlight(text: str, search_words: Sequence[str], style: str = "") -> Content:
    """Untrusted text without markup, with the search words in reverse video."""
    shown = "\n".join(one_line(line) for line in text.splitlines())
    content = Content.styled(shown, style) if style else Content(shown)
    for word in search_words:
        for match in re.finditer(re.escape(word), shown, re.IGNORECASE):
            content = content.stylize("reverse bold", match.start(), match.end())
    return content


class GroupView(Vertical):
    """The completions of one group as columns; the selected one has a heavy frame."""

    def __init__(self) -> None:
        super().__init__(id="group")
        self._drawn: tuple[object, ...] = ()

    def compose(self) -> ComposeResult:
        yield Static(id="group-prompt", classes="pane", markup=False)
        yield HorizontalScroll(id="group-columns", can_focus=True)

    async def show_group(
        self,
        rows: Sequence[CompletionRow],
        selected: CompletionRow,
        search_words: Sequence[str],
        *,
        unfold: bool,
    ) -> None:
        """Show the group of the selected completion."""
        group = [row for row in rows if row.group == selected.group]
        drawn = (tuple(group), selected.position, tuple(search_words), self.size.width, unfold)
        if drawn == self._drawn or not group:
            return
        self._drawn = drawn
        kind = f" · {selected.kind}" if selected.kind else ""
        prompt = self.query_one("#group-prompt", Static)
        prompt.border_title = Content(
            one_line(f"Group {selected.group} · {selected.prompt_id}{kind}")
        )
        context = context_lines(selected.context)
        prompt.update(
            Content("\n").join(
                [
                    *(highlight(line, search_words, "dim") for line in context),
                    highlight(selected.prompt, search_words),
                ]
            )
        )
        columns = self.query_one("#group-columns", HorizontalScroll)
        shown = list(columns.query(Static))
        if len(shown) != len(group):
            await columns.remove_children()
            shown = [Static(classes="pane group-column", markup=False) for _ in group]
            await columns.mount(*shown)
        width = max(MIN_COLUMN_WIDTH, self.size.width // len(group))
        for column, row in zip(shown, group, strict=True):
            column.styles.width = width
            column.set_class(row.position == selected.position, "-selected")
            column.border_title = Content(f"{row.group}·{row.index}")
            column.update(_render_column(row, search_words, unfold))
            if row.position == selected.position:
                columns.scroll_to_widget(column, animate=False)


def _render_column(row: CompletionRow, search_words: Sequence[str], unfold: bool) -> Content:
    scored = row.scored
    advantage = "" if row.advantage is None else f" adv {format_signed(row.advantage, 2)}"
    scores = (
        " ".join(f"{axis.name} {_score_text(row.score(axis))}" for axis in row.axes)
        if scored is not None and any(score is not None for score in scored.scores.values())
        else row.notes or "not judged yet"
    )
    reason = scored.reason if scored is not None else ""
    return Content("\n").join(
        [
            Content.assemble(
                (f"{row.reward_name} {format_number(row.reward, 3)}{advantage}", "bold")
            ),
            Content.assemble((scores, "dim")),
            Content(""),
            *_render_text(row, search_words, unfold),
            Content(""),
            Content.assemble((one_line(reason), "dim")),
        ]
    )


def _score_text(score: float | None) -> str:
    if score is None:
        return UNKNOWN
    return format_general(score) if score == round(score, 1) else format_significant(score)
