"""Line plots over steps: size, patterns without color, and gaps for unknown values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ida_tui.tui.widgets.plot import HELD_OUT_STYLES, PlotLine, draw_plot

VALUES = st.lists(st.one_of(st.none(), st.floats(0, 10)), max_size=300)


def plot_rows(
    *lines: PlotLine, width: int = 60, height: int = 12, low: float = 0, high: float = 10
) -> list[str]:
    return draw_plot(lines, low=low, high=high, width=width, height=height).plain.split("\n")


def braille(row: str) -> str:
    return "".join(c for c in row if "\u2800" < c <= "\u28ff")


@given(
    values=st.lists(VALUES, min_size=1, max_size=4),
    width=st.integers(20, 130),
    height=st.integers(5, 40),
)
def test_a_plot_has_the_requested_size(
    values: list[list[float | None]], width: int, height: int
) -> None:
    text_rows = plot_rows(
        *(PlotLine(f"line{n}", v, "") for n, v in enumerate(values)), width=width, height=height
    )

    assert len(text_rows) == height
    assert {len(row) for row in text_rows} == {width}


def test_a_rising_line_starts_low_and_ends_high() -> None:
    text_rows = [braille(row) for row in plot_rows(PlotLine("up", [0.0, 5.0, 10.0], ""))]

    assert text_rows[0]
    assert text_rows[10]
    assert (
        plot_rows(PlotLine("up", [0.0, 10.0], ""))[10].index(text_rows[10][0]) == 4
    )  # right of the axis


@given(newest=st.lists(st.floats(0, 10), min_size=2, max_size=4), height=st.integers(6, 20))
def test_every_line_is_labeled_with_its_name_and_newest_value(
    newest: list[float], height: int
) -> None:
    lines = [PlotLine(f"name{n}", [0.0, value], "") for n, value in enumerate(newest)]

    text = "\n".join(plot_rows(*lines, height=height))

    for n, value in enumerate(newest):
        assert f"name{n} {value:.1f}" in text


def test_lines_with_different_patterns_differ_without_color() -> None:
    patterns = [(1,), (1, 1, 1, 1, 0, 0), (1, 0, 0), (1, 1, 1, 0, 1, 0)]
    plots = ["".join(plot_rows(PlotLine("x", [5.0] * 9, "", pattern))) for pattern in patterns]

    assert len(set(plots)) == len(patterns)


def test_a_step_without_a_value_leaves_a_gap() -> None:
    full = braille("".join(plot_rows(PlotLine("x", [5.0] * 7, ""))))
    gap = braille("".join(plot_rows(PlotLine("x", [5.0, 5.0, None, None, None, 5.0, 5.0], ""))))

    assert len(gap) < len(full)


def test_a_single_step_is_a_dot_and_no_steps_draw_nothing() -> None:
    assert len(braille("".join(plot_rows(PlotLine("x", [5.0], ""))))) == 1
    assert braille("".join(plot_rows(PlotLine("x", [], "")))) == ""
    assert braille("".join(plot_rows(PlotLine("x", [None, None], "")))) == ""


def test_more_steps_than_dots_have_the_same_shape() -> None:
    short = [n / 10 for n in range(101)]
    long = [n / 1000 for n in range(10_001)]

    short_plot, long_plot = plot_rows(PlotLine("x", short, "")), plot_rows(PlotLine("x", long, ""))

    equal_cells = sum(a == b for a, b in zip("".join(short_plot), "".join(long_plot), strict=True))
    assert equal_cells > 0.9 * len("".join(short_plot))


def test_the_axis_shows_the_first_and_the_last_step() -> None:
    axis = draw_plot(
        [PlotLine("x", [1.0] * 40, "")], low=0, high=1, width=80, height=9, first=3
    ).plain.split("\n")[-1]

    assert axis.split() == ["3", "10", "20", "30", "40", "42", "step"]


@pytest.mark.parametrize("size", [(1, 1), (5, 1), (8, 2)])
def test_nothing_is_drawn_without_enough_space(size: tuple[int, int]) -> None:
    assert (
        braille("".join(plot_rows(PlotLine("name", [1.0, 2.0], ""), width=size[0], height=size[1])))
        == ""
    )


def test_points_are_drawn_where_they_are_without_a_line_between_them() -> None:
    values = [0.5 if n in (10, 90) else None for n in range(101)]
    color, shape = HELD_OUT_STYLES[0]
    line = PlotLine("held out", values, color, points=shape)

    plain = draw_plot([line], low=0, high=1, width=120, height=8, axis=False).plain

    assert sum("\u2801" <= character <= "\u28ff" for character in plain) <= 8
    assert "held out 0.5" in plain
