"""The resolved profile as a table, edited in place: what is typed is checked at every key."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Container
from textual.content import Content
from textual.message import Message
from textual.widgets import DataTable, Input, Static

from ida_tui.config.profiles import shipped_root
from ida_tui.errors import UsageError
from ida_tui.util.paths import shown_path
from ida_tui.util.text import printable

if TYPE_CHECKING:
    from ida_tui.tui.screens.launch.selection import Row

KEY_WIDTH = 30
PADDING = 1
"""Of a cell, on either side."""
Judge = Callable[[str, str], UsageError | None]
"""What would be wrong with a value of a key."""


class ProfileTable(Container):
    """Rows of key, value and origin; one value can be edited on its own row.

    Args:
        problem: says what would be wrong with a value.
    """

    class Edited(Message):
        """A value was changed to something that is right."""

        def __init__(self, key: str, text: str) -> None:
            super().__init__()
            self.key, self.text = key, text

    def __init__(self, problem: Judge) -> None:
        super().__init__(id="profile", classes="pane")
        self._problem = problem
        self._rows: list[Row] = []
        self._widths = (0, 0)
        self._editing = ""

    def compose(self) -> ComposeResult:
        table: DataTable[Text] = DataTable(
            id="values", cursor_type="row", cell_padding=PADDING, show_header=False
        )
        yield table
        yield _Editor(id="value", select_on_focus=False)
        yield Static(id="verdict", markup=False)

    def on_mount(self) -> None:
        self.border_title = "Profile"
        self._show_editor(False)

    @property
    def values(self) -> DataTable[Text]:
        """The table itself."""
        return self.query_one("#values", DataTable)

    @property
    def row(self) -> Row | None:
        """The row under the cursor."""
        at = self.values.cursor_row
        return self._rows[at] if 0 <= at < len(self._rows) else None

    @property
    def editing(self) -> bool:
        """Whether a value is being edited."""
        return bool(self._editing)

    def show(self, rows: list[Row], title: str) -> None:
        """Show these rows; the cursor stays on its key."""
        self.border_title = Content(title)
        widths = self._wanted_widths()
        if rows == self._rows and widths == self._widths:
            return
        at = self.row.key if self.row else ""
        same_shape = [r.key for r in rows] == [r.key for r in self._rows]
        scroll = self.values.scroll_offset.y
        self._rows, self._widths = rows, widths
        table = self.values
        table.clear(columns=True)
        table.add_column("key", width=KEY_WIDTH)
        table.add_column("value", width=widths[0])
        if widths[1]:
            table.add_column("from", width=widths[1])
        for row in rows:
            cells = _cells(row, widths)
            table.add_row(*cells[: 3 if widths[1] else 2])
        keys = [row.key for row in rows if not row.heading]
        target = at if at in keys else keys[0] if keys else ""
        if target:
            index = next(n for n, row in enumerate(rows) if row.key == target and not row.heading)
            table.move_cursor(row=index, scroll=not same_shape)
        if same_shape:
            table.scroll_to(y=scroll, animate=False)

    def _wanted_widths(self) -> tuple[int, int]:
        room = self.size.width - KEY_WIDTH - 2 * PADDING - 2
        if room < 36:
            return max(8, room - 2 * PADDING), 0
        value = min(30, room * 9 // 20)
        return value, room - value - 4 * PADDING

    @on(DataTable.RowHighlighted)
    def _moved(self) -> None:
        # The whole place of the value; the table has room for its end at most.
        row = self.row
        said = "" if row is None or row.heading else "changed here" if row.changed else row.origin
        shipped = f"{shown_path(shipped_root())}/"
        self.border_subtitle = Content(printable(said.replace(shipped, "shipped: ")))

    # -- editing ------------------------------------------------------------------------------

    def edit(self, text: str) -> None:
        """Edit the value under the cursor, beginning with this text."""
        if self.row is None:
            return
        self._editing = self.row.key
        table, width = self.values, self.content_size.width
        row = table.cursor_row - round(table.scroll_offset.y)
        left = KEY_WIDTH + 2 * PADDING
        field, verdict = self.query_one("#value", Input), self.query_one("#verdict", Static)
        field.styles.offset = (left, row)
        field.styles.width = self._widths[0] + 2 * PADDING if self._widths[1] else width - left
        # On the next row, where there is room for a whole sentence.
        below = row + 1 if row + 1 < table.size.height else row - 1
        verdict.styles.offset, verdict.styles.width = (2, below), width - 2
        self._show_editor(True)
        field.value = text
        field.cursor_position = len(text)
        field.focus()
        self._say(text)

    def leave(self) -> bool:
        """Leave the editor without a change; False if there was none open."""
        if not self._editing:
            return False
        self._editing = ""
        self._show_editor(False)
        self.values.focus()
        return True

    def _show_editor(self, shown: bool) -> None:
        self.query_one("#value").display = shown
        self.query_one("#verdict").display = shown

    @on(Input.Changed, "#value")
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        if self._editing:
            self._say(event.value)

    @on(Input.Submitted, "#value")
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        key = self._editing
        if not key or self._say(event.value) is not None:
            return
        self.leave()
        self.post_message(self.Edited(key, event.value))

    def _say(self, text: str) -> UsageError | None:
        problem = self._problem(self._editing, text)
        verdict = self.query_one("#verdict", Static)
        if problem is None:
            verdict.update(Content.assemble((" ✓ enter keeps it", "$text-success")))
        else:
            hint = problem.hint.splitlines()[0] if problem.hint else ""
            said = f" ✗ {problem.title}" + (f": {hint}" if hint else "")
            verdict.update(Content.assemble((printable(said), "bold $text-error")))
        return problem


class _Editor(Input):
    BINDINGS = [Binding("escape", "cancel", "Leave", show=False)]  # noqa: RUF012

    def action_cancel(self) -> None:
        """Leave the value as it was."""
        for table in self.ancestors:
            if isinstance(table, ProfileTable):
                table.leave()


def _cells(row: Row, widths: tuple[int, int]) -> list[Text]:
    if row.heading:
        return [Text(row.name, style="bold"), Text(""), Text("")]
    mark = "* " if row.changed else "  "
    style = "bold" if row.changed else ""
    return [
        Text(_cut(f"{mark}{row.name}", KEY_WIDTH), style=style),
        Text(_cut(row.value, widths[0]), style=style),
        Text(_cut("changed here" if row.changed else row.place, widths[1]), style="dim"),
    ]


def _cut(text: str, width: int) -> str:
    text = printable(text)
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"
