"""List widget of profiles in which the highlighted profile is the selected one."""

from __future__ import annotations

from dataclasses import dataclass

from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from ida_tui.util.text import printable


@dataclass(frozen=True, slots=True)
class Item:
    """One profile in a list."""

    name: str
    """Name as in an override; empty for the experiment's default."""
    label: str
    about: str
    """The description, or the error of an invalid profile."""
    broken: bool = False


class Choices(OptionList):
    """A list in which the arrow keys select; a mark shows the selection even without focus."""

    class Chosen(Message):
        """Posted when another profile is selected."""

        def __init__(self, choices: Choices) -> None:
            super().__init__()
            self.choices = choices

    def __init__(self, title: str, items: list[Item], chosen: str, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id, classes="pane", markup=False)
        self._title = title
        self._items = items
        self._chosen = chosen
        self.letters = ""
        self._fill()

    @property
    def chosen(self) -> Item:
        """The selected profile, even while a filter hides it."""
        return next((i for i in self._items if i.name == self._chosen), self._items[0])

    def set_items(self, items: list[Item]) -> None:
        """Replace the profiles, for example after the experiment's default has changed."""
        if items != self._items:
            self._items = items
            self._fill()

    def filter(self, letters: str) -> None:
        """Show only profiles whose name or description contains this text, ignoring case."""
        self.letters = letters
        self._fill()

    def _fill(self) -> None:
        wanted = self.letters.casefold()
        shown = [i for i in self._items if wanted in f"{i.label} {i.about}".casefold()]
        with self.prevent(OptionList.OptionHighlighted):
            self.clear_options()
            self.add_options([Option(self._row(item), id=f"-{item.name}") for item in shown])
            if not shown:
                self.add_option(Option(f"no match for “{self.letters}”", disabled=True))
            names = [item.name for item in shown]
            self.highlighted = names.index(self._chosen) if self._chosen in names else None
        count = f" {len(shown)}/{len(self._items)} “{self.letters}”" if self.letters else ""
        self.border_title = Content(f"{self._title}{count}")

    def _row(self, item: Item) -> Content:
        mark = "●" if item.name == self._chosen else "✗" if item.broken else " "
        label = printable(item.label)
        style = "bold" if item.name == self._chosen else "dim" if item.broken else ""
        return Content.assemble(
            (f"{mark} ", "$text-error" if item.broken else "$text-accent"), (label, style)
        )

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        name = (event.option_id or "-").removeprefix("-")
        if event.option_id is None or name == self._chosen:
            return
        previous, self._chosen = self._chosen, name
        for item in self._items:
            if item.name in (previous, name):
                for index in range(self.option_count):
                    if self.get_option_at_index(index).id == f"-{item.name}":
                        self.replace_option_prompt_at_index(index, self._row(item))
        self.post_message(self.Chosen(self))
