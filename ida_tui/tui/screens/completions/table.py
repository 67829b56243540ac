"""The completions of a step as a table; the cursor stays on its completion whatever the order."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.content import Content
from textual.message import Message
from textual.widgets import DataTable

from ida_tui.tui.screens.completions.rows import Order, Sample
from ida_tui.tui.widgets import format as words

WIDE = ("#", "R_IDA", "adv.", "align", "risk", "detail", "tokens", "")
COMPACT = ("#", "R_IDA", "adv.", "")


class SampleTable(DataTable[Text]):
    """One row a completion."""

    class Moved(Message):
        """The cursor is on another completion."""

    def __init__(self) -> None:
        super().__init__(id="samples", cursor_type="row", classes="pane", cell_padding=1)
        self._samples: list[Sample] = []
        self._labels: tuple[str, ...] = ()
        self.place: tuple[int, int] = (0, 0)
        """Group and index of the completion under the cursor."""

    @property
    def samples(self) -> list[Sample]:
        """The rows, in their order."""
        return self._samples

    def show(
        self, samples: Sequence[Sample], title: str, by: Order, *, turned: bool, compact: bool
    ) -> None:
        """Show these completions, in this order."""
        self.border_title = Content(title)
        labels = _labels(COMPACT if compact else WIDE, by, turned)
        same_rows = [_key(s) for s in samples] == [_key(s) for s in self._samples]
        if same_rows and labels == self._labels:
            self._samples = list(samples)  # only texts have grown
            return
        self._samples = list(samples)
        scroll = self.scroll_offset.y
        with self.prevent(DataTable.RowHighlighted):
            self.clear(columns=labels != self._labels)
            if labels != self._labels:
                self._labels = labels
                for label in labels:
                    self.add_column(label)
            for sample in samples:
                self.add_row(*_chosen(_cells(sample), compact))
            places = [sample.place for sample in samples]
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
        return next((s for s in self._samples if s.place == self.place), None)

    def choose(self, place: tuple[int, int]) -> None:
        """Put the cursor on a completion."""
        places = [sample.place for sample in self._samples]
        if place in places:
            self.place = place
            self.move_cursor(row=places.index(place))


def _key(sample: Sample) -> tuple[object, ...]:
    """What a row shows of a completion: it is drawn again when this has changed."""
    return sample.place, sample.step, sample.finished is None, sample.scored, sample.agree


def _labels(columns: tuple[str, ...], by: Order, turned: bool) -> tuple[str, ...]:
    sorted_by = {"group": "#", "reward": "R_IDA", "advantage": "adv."}[by]
    arrow = "↑" if turned else "↓"
    return tuple(f"{name}{arrow}" if name == sorted_by != "#" else name for name in columns)


def _cells(sample: Sample) -> list[Text]:
    scored, finished = sample.scored, sample.finished
    return [
        Text(f"{sample.group}·{sample.index}"),
        Text(words.number(sample.reward, 3), style="bold"),
        Text(words.UNKNOWN if sample.advantage is None else words.signed(sample.advantage, 2)),
        Text(words.number(scored.align if scored else None, 1)),
        Text(words.number(scored.risk if scored else None, 1)),
        Text(words.number(scored.detail if scored else None, 1)),
        Text(str(finished.tokens) if finished else words.UNKNOWN),
        Text(sample.remarks),
    ]


def _chosen(cells: list[Text], compact: bool) -> list[Text]:
    return [*cells[:3], cells[7]] if compact else cells
