"""Input field for a filter or search words, hidden until it is opened."""

from __future__ import annotations

from collections.abc import Callable

from textual import on
from textual.widget import Widget
from textual.widgets import Input


class FilterField(Input):
    """A field below a list; Enter hides it and returns the focus to the list.

    Args:
        filtered_widget: returns the widget to focus after closing, if any.
        id: id of the field.
        placeholder: shown while the field is empty.
    """

    def __init__(
        self,
        filtered_widget: Callable[[], Widget | None],
        *,
        id: str,  # noqa: A002
        placeholder: str = "filter",
    ) -> None:
        super().__init__(id=id, placeholder=placeholder, select_on_focus=False)
        self.display = False
        self._filtered_widget = filtered_widget

    def open(self, text: str) -> None:
        """Show and focus the field with this text."""
        self.value = text
        self.display = True
        self.focus()

    @on(Input.Submitted)
    def close(self) -> None:
        """Hide the field and focus the filtered widget."""
        self.display = False
        widget = self._filtered_widget()
        if widget is not None:
            widget.focus()
