"""Profile table of the launch screen: resolved values, edited in place with validation on every key press."""

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
from ida_tui.util.paths import display_path
from ida_tui.util.text import one_line

if TYPE_CHECKING:
    from ida_tui.tui.screens.launch.selection import ProfileRow

KEY_WIDTH = 30
PADDING = 1
"""Columns of padding on either side of a cell."""
Validator = Callable[[str, str], UsageError | None]
"""Returns the error that a value of a key would cause, or None."""


class ProfileTable(Container):
    """Rows of key, value, and origin; the value under the cursor can be edited in its row.

    Args:
        validator: returns the error that a value would cause.
    """

    class Edited(Message):
        """Posted when a valid value has been submitted."""

        def __init__(self, key: str, text: str) -> None:
            super().__init__()
            self.key, self.text = key, text

    def __init__(self, validator: Validator) -> None:
        super().__init__(id="profile", classes="pane")
        self._validator = validator
        self._rows: list[ProfileRow] = []
        self._widths = (0, 0)
        self._edited_key = ""

    def compose(self) -> ComposeResult:
        table: DataTable[Text] = DataTable(
            id="values", cursor_type="row", cell_padding=PADDING, show_header=False
        )
        yield table
        yield _ValueEditor(id="value", select_on_focus=False)
        yield Static(id="validation", markup=False)

    def on_mount(self) -> None:
        self.border_title = "Profile"
        self._show_editor(False)

    @property
    def value_table(self) -> DataTable[Text]:
        """The inner table."""
        return self.query_one("#values", DataTable)

    @property
    def selected_row(self) -> ProfileRow | None:
        """The row under the cursor."""
        index = self.value_table.cursor_row
        return self._rows[index] if 0 <= index < len(self._rows) else None

    @property
    def is_editing(self) -> bool:
        """Whether a value is being edited."""
        return bool(self._edited_key)

    def show_rows(self, rows: list[ProfileRow], title: str) -> None:
        """Show these rows. The cursor stays on its key."""
        self.border_title = Content(title)
        widths = self._column_widths()
        if rows == self._rows and widths == self._widths:
            return
        selected_key = self.selected_row.key if self.selected_row else ""
        same_shape = [r.key for r in rows] == [r.key for r in self._rows]
        scroll = self.value_table.scroll_offset.y
        self._rows, self._widths = rows, widths
        table = self.value_table
        table.clear(columns=True)
        table.add_column("key", width=KEY_WIDTH)
        table.add_column("value", width=widths[0])
        if widths[1]:
            table.add_column("from", width=widths[1])
        for row in rows:
            cells = _cells(row, widths)
            table.add_row(*cells[: 3 if widths[1] else 2])
        keys = [row.key for row in rows if not row.is_heading]
        target = selected_key if selected_key in keys else keys[0] if keys else ""
        if target:
            index = next(
                n for n, row in enumerate(rows) if row.key == target and not row.is_heading
            )
            table.move_cursor(row=index, scroll=not same_shape)
        if same_shape:
            table.scroll_to(y=scroll, animate=False)

    def _column_widths(self) -> tuple[int, int]:
        room = self.size.width - KEY_WIDTH - 2 * PADDING - 2
        if room < 36:
            return max(8, room - 2 * PADDING), 0
        value = min(30, room * 9 // 20)
        return value, room - value - 4 * PADDING

    @on(DataTable.RowHighlighted)
    def _on_row_highlighted(self) -> None:
        # The full origin of the value; the table has room only for the end of it.
        row = self.selected_row
        origin = "" if row is None or row.is_heading else "edited" if row.edited else row.origin
        shipped = f"{display_path(shipped_root())}/"
        self.border_subtitle = Content(one_line(origin.replace(shipped, "shipped: ")))

    # -- editing ------------------------------------------------------------------------------

    def open_editor(self, text: str) -> None:
        """Edit the value under the cursor, starting with this text."""
        if self.selected_row is None:
            return
        self._edited_key = self.selected_row.key
        table, width = self.value_table, self.content_size.width
        row = table.cursor_row - round(table.scroll_offset.y)
        left = KEY_WIDTH + 2 * PADDING
        field, validation = self.query_one("#value", Input), self.query_one("#validation", Static)
        field.styles.offset = (left, row)
        field.styles.width = self._widths[0] + 2 * PADDING if self._widths[1] else width - left
        # The message goes on the next row, which has room for a full sentence.
        below = row + 1 if row + 1 < table.size.height else row - 1
        validation.styles.offset, validation.styles.width = (2, below), width - 2
        self._show_editor(True)
        field.value = text
        field.cursor_position = len(text)
        field.focus()
        self._show_validation(text)

    def cancel_edit(self) -> bool:
        """Close the editor without a change. Returns False if it was not open."""
        if not self._edited_key:
            return False
        self._edited_key = ""
        self._show_editor(False)
        self.value_table.focus()
        return True

    def _show_editor(self, shown: bool) -> None:
        self.query_one("#value").display = shown
        self.query_one("#validation").display = shown

    @on(Input.Changed, "#value")
    def _on_value_changed(self, event: Input.Changed) -> None:
        event.stop()
        if self._edited_key:
            self._show_validation(event.value)

    @on(Input.Submitted, "#value")
    def _on_value_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        key = self._edited_key
        if not key or self._show_validation(event.value) is not None:
            return
        self.cancel_edit()
        self.post_message(self.Edited(key, event.value))

    def _show_validation(self, text: str) -> UsageError | None:
        problem = self._validator(self._edited_key, text)
        validation = self.query_one("#validation", Static)
        if problem is None:
            text = " ✓ Enter to save, Esc to cancel"
            validation.update(Content.assemble((text, "$text-success")))
        else:
            hint = problem.hint.splitlines()[0] if problem.hint else ""
            message = f" ✗ {problem.title}" + (f": {hint}" if hint else "")
            validation.update(Content.assemble((one_line(message), "bold $text-error")))
        return problem


class _ValueEditor(Input):
    BINDINGS = [Binding("escape", "cancel", "Leave", show=False)]  # noqa: RUF012

    def action_cancel(self) -> None:
        """Close the editor without a change."""
        for table in self.ancestors:
            if isinstance(table, ProfileTable):
                table.cancel_edit()


def _cells(row: ProfileRow, widths: tuple[int, int]) -> list[Text]:
    if row.is_heading:
        return [Text(row.name, style="bold"), Text(""), Text("")]
    mark = "* " if row.edited else "  "
    style = "bold" if row.edited else ""
    return [
        Text(_truncate(f"{mark}{row.name}", KEY_WIDTH), style=style),
        Text(_truncate(row.value, widths[0]), style=style),
        Text(_truncate("edited" if row.edited else row.short_origin, widths[1]), style="dim"),
    ]


def _truncate(text: str, width: int) -> str:
    text = one_line(text)
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"
