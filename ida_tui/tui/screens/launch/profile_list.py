"""List widget of profiles in which the highlighted profile is the selected one."""

from __future__ import annotations

from dataclasses import dataclass

from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from ida_tui.util.text import one_line


@dataclass(frozen=True, slots=True)
class ProfileItem:
    """One profile in a list."""

    name: str
    """Name as in an override; empty for the experiment's default."""
    label: str
    description: str
    """The description, or the error of an invalid profile."""
    broken: bool = False


class ProfileList(OptionList):
    """A list in which the arrow keys select; a mark shows the selection even without focus."""

    class Selected(Message):
        """Posted when another profile is selected."""

        def __init__(self, profile_list: ProfileList) -> None:
            super().__init__()
            self.profile_list = profile_list

    def __init__(self, title: str, items: list[ProfileItem], selected: str, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id, classes="pane", markup=False)
        self._title = title
        self._items = items
        self._selected_name = selected
        self.filter_text = ""
        self._fill_options()

    @property
    def selected_item(self) -> ProfileItem:
        """The selected profile, even while a filter hides it."""
        return next((i for i in self._items if i.name == self._selected_name), self._items[0])

    def set_items(self, items: list[ProfileItem]) -> None:
        """Replace the profiles, for example after the experiment's default has changed."""
        if items != self._items:
            self._items = items
            self._fill_options()

    def set_filter(self, filter_text: str) -> None:
        """Show only profiles whose name or description contains this text, ignoring case."""
        self.filter_text = filter_text
        self._fill_options()

    def _fill_options(self) -> None:
        wanted = self.filter_text.casefold()
        shown = [i for i in self._items if wanted in f"{i.label} {i.description}".casefold()]
        with self.prevent(OptionList.OptionHighlighted):
            self.clear_options()
            self.add_options(
                [Option(self._render_item(item), id=f"-{item.name}") for item in shown]
            )
            if not shown:
                self.add_option(Option(f"no match for “{self.filter_text}”", disabled=True))
            names = [item.name for item in shown]
            self.highlighted = (
                names.index(self._selected_name) if self._selected_name in names else None
            )
        count = f" {len(shown)}/{len(self._items)} “{self.filter_text}”" if self.filter_text else ""
        self.border_title = Content(f"{self._title}{count}")

    def _render_item(self, item: ProfileItem) -> Content:
        mark = "●" if item.name == self._selected_name else "✗" if item.broken else " "
        label = one_line(item.label)
        style = "bold" if item.name == self._selected_name else "dim" if item.broken else ""
        return Content.assemble(
            (f"{mark} ", "$text-error" if item.broken else "$text-accent"), (label, style)
        )

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        self._select(event.option_id)

    def action_select(self) -> None:
        """Select the highlighted profile, then report the choice.

        Keys that are typed fast are handled before the message about the profile that they highlight.
        """
        if (option := self.highlighted_option) is not None:
            self._select(option.id)
        super().action_select()

    def _select(self, option_id: str | None) -> None:
        name = (option_id or "-").removeprefix("-")
        if option_id is None or name == self._selected_name:
            return
        previous, self._selected_name = self._selected_name, name
        for item in self._items:
            if item.name in (previous, name):
                for index in range(self.option_count):
                    if self.get_option_at_index(index).id == f"-{item.name}":
                        self.replace_option_prompt_at_index(index, self._render_item(item))
        self.post_message(self.Selected(self))
