"""Table widget of one step's completions; the cursor stays on its completion in any sort order."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.content import Content
from textual.message import Message
from textual.widgets import DataTable

from ida_tui.tui.screens.completions.rows import Order, Sample
from ida_tui.tui.widgets import format as words

WIDE = ("#", "R_IDA", "adv", "align", "risk", "detail", "tokens", "")
COMPACT = ("#", "R_IDA", "adv", "")


class SampleTable(DataTable[Text]):
    """Table with one row per completion."""

    class Moved(Message):
        """Posted when the cursor has moved to another completion."""

    def __init__(self) -> None:
        super().__init__(id="samples", cursor_type="row", classes="pane", cell_padding=1)
        self._samples: list[Sample] = []
        self._labels: tuple[str, ...] = ()
        self.place: tuple[int, int] = (0, 0)
        """Group and index of the completion under the cursor."""

    @property
    def samples(self) -> list[Sample]:
        """The completions in row order."""
        return self._samples

    def show(
        self, rows: Sequence[Sample], title: str, by: Order, *, turned: bool, compact: bool
    ) -> None:
        """Show these completions in the given order."""
        self.border_title = Content(title)
        labels = _labels(COMPACT if compact else WIDE, by, turned)
        same_rows = [_key(row) for row in rows] == [_key(row) for row in self._samples]
        if same_rows and labels == self._labels:
            self._samples = list(rows)  # only texts have changed, which the table does not show
            return
        self._samples = list(rows)
        scroll = self.scroll_offset.y
        with self.prevent(DataTable.RowHighlighted):
            self.clear(columns=labels != self._labels)
            if labels != self._labels:
                self._labels = labels
                for label in labels:
                    self.add_column(label)
            for row in rows:
                self.add_row(*_chosen(_cells(row), compact))
            places = [row.place for row in rows]
            if self.place in places:
                self.move_cursor(row=places.index(self.place), scroll=False)
                self.scroll_to(y=scroll, animate=False)
            elif places:
                self.place = places[0]

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        event.stop()
        if 0 <= event.cursor_row < len(self._samples):
            self.place = self._samples[event.cursor_row].place
            self.post_message(self.Moved())

    @property
    def chosen(self) -> Sample | None:
        """The completion under the cursor."""
        return next((row for row in self._samples if row.place == self.place), None)

    def choose(self, place: tuple[int, int]) -> None:
        """Move the cursor to a completion."""
        places = [row.place for row in self._samples]
        if place in places:
            self.place = place
            self.move_cursor(row=places.index(place))


def _key(row: Sample) -> tuple[object, ...]:
    """The values that a row shows; the table is redrawn when one of them changes."""
    return row.place, row.step, row.finished is None, row.scored, row.agree


def _labels(columns: tuple[str, ...], by: Order, turned: bool) -> tuple[str, ...]:
    sorted_by = {"group": "#", "reward": "R_IDA", "advantage": "adv"}[by]
    arrow = "↑" if turned else "↓"
    return tuple(f"{name}{arrow}" if name == sorted_by != "#" else name for name in columns)


def _cells(row: Sample) -> list[Text]:
    scored, finished = row.scored, row.finished
    return [
        Text(f"{row.group}·{row.index}"),
        Text(words.number(row.reward, 3), style="bold"),
        Text(words.UNKNOWN if row.advantage is None else words.signed(row.advantage, 2)),
        Text(words.number(scored.align if scored else None, 1)),
        Text(words.number(scored.risk if scored else None, 1)),
        Text(words.number(scored.detail if scored else None, 1)),
        Text(str(finished.tokens) if finished else words.UNKNOWN),
        Text(row.remarks),
    ]


def _chosen(cells: list[Text], compact: bool) -> list[Text]:
    return [*cells[:3], cells[7]] if compact else cells
