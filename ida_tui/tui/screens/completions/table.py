"""Table of one step's completions; the cursor stays on the same completion after sorting."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.content import Content
from textual.message import Message
from textual.widgets import DataTable

from ida_tui.config.scoring.axes import IDA_AXES, IDA_REWARD, format_score
from ida_tui.tui.screens.completions.rows import CompletionPosition, CompletionRow, SortOrder
from ida_tui.util.format import UNKNOWN, format_number, format_signed

COMPACT_COLUMNS = 3
"""Number of the first columns that a narrow table keeps, besides the notes."""


class CompletionTable(DataTable[Text]):
    """Table with one row per completion."""

    class Moved(Message):
        """Posted when the cursor has moved to another completion."""

    def __init__(self) -> None:
        super().__init__(id="completion-table", cursor_type="row", classes="pane", cell_padding=1)
        self._completion_rows: list[CompletionRow] = []
        self._labels: tuple[str, ...] = ()
        self.position = CompletionPosition(0, 0)
        """The completion under the cursor."""

    @property
    def completion_rows(self) -> list[CompletionRow]:
        """The completions in row order."""
        return self._completion_rows

    def show_rows(
        self,
        rows: Sequence[CompletionRow],
        title: str,
        by: SortOrder,
        *,
        reverse: bool,
        compact: bool,
    ) -> None:
        """Show these completions in the given order."""
        self.border_title = Content(title)
        labels = _column_labels(rows[0] if rows else None, by, reverse=reverse, compact=compact)
        same_rows = [_row_key(row) for row in rows] == [
            _row_key(row) for row in self._completion_rows
        ]
        if same_rows and labels == self._labels:
            # Only texts have changed, which the table does not show.
            self._completion_rows = list(rows)
            return
        self._completion_rows = list(rows)
        scroll = self.scroll_offset.y
        with self.prevent(DataTable.RowHighlighted):
            self.clear(columns=labels != self._labels)
            if labels != self._labels:
                self._labels = labels
                for label in labels:
                    self.add_column(label)
            for row in rows:
                self.add_row(*_visible_cells(_cells(row), compact))
            positions = [row.position for row in rows]
            if self.position in positions:
                self.move_cursor(row=positions.index(self.position), scroll=False)
                self.scroll_to(y=scroll, animate=False)
            elif positions:
                self.position = positions[0]

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        event.stop()
        if 0 <= event.cursor_row < len(self._completion_rows):
            self.position = self._completion_rows[event.cursor_row].position
            self.post_message(self.Moved())

    @property
    def selected_row(self) -> CompletionRow | None:
        """The completion under the cursor."""
        return next((row for row in self._completion_rows if row.position == self.position), None)

    def select(self, position: CompletionPosition) -> None:
        """Move the cursor to a completion."""
        positions = [row.position for row in self._completion_rows]
        if position in positions:
            self.position = position
            self.move_cursor(row=positions.index(position))


def _row_key(row: CompletionRow) -> tuple[object, ...]:
    """The values that a row shows; the table is redrawn when one of them changes."""
    return row.position, row.step, row.finished is None, row.scored, row.agree


def _column_labels(
    row: CompletionRow | None, by: SortOrder, *, reverse: bool, compact: bool
) -> tuple[str, ...]:
    """The titles of the columns, with an arrow at the one that orders the rows."""
    arrow = "↑" if reverse else "↓"
    reward = row.reward_name if row else IDA_REWARD
    first = ["#", reward, "adv"]
    sorted_column = {"group": None, "reward": 1, "advantage": 2}[by]
    if sorted_column is not None:
        first[sorted_column] += arrow
    if compact:
        return (*first, "")
    return (*first, *(axis.name for axis in (row.axes if row else IDA_AXES)), "tokens", "")


def _cells(row: CompletionRow) -> list[Text]:
    finished = row.finished
    return [
        Text(f"{row.group}·{row.index}"),
        Text(format_number(row.reward, 3), style="bold"),
        Text(UNKNOWN if row.advantage is None else format_signed(row.advantage, 2)),
        *(Text(format_score(row.score(axis), axis)) for axis in row.axes),
        Text(str(finished.tokens) if finished else UNKNOWN),
        Text(row.notes),
    ]


def _visible_cells(cells: list[Text], compact: bool) -> list[Text]:
    return [*cells[:COMPACT_COLUMNS], cells[-1]] if compact else cells
