"""Line that stands for the thought of a completion; a click on it folds and unfolds thoughts."""

from __future__ import annotations

from textual.content import Content
from textual.style import Style


def thought_line(note: str = "", *, unfold: bool) -> Content:
    """The line above a thought, or in its place; its screen has the action `toggle_thoughts`.

    Args:
        note: text after the word, such as the length.
        unfold: whether the thought is shown.
    """
    line = Content.styled(f"{'▾' if unfold else '▸'} thought{note}", "dim")
    return line.stylize(Style.from_meta({"@click": "screen.toggle_thoughts"}))
