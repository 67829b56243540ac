"""Lines over steps: they fit, they can be told apart without colour, and they leave out what is not known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ida_tui.tui.widgets.plot import PlotLine, draw_plot

VALUES = st.lists(st.one_of(st.none(), st.floats(0, 10)), max_size=300)


def rows(
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
def test_a_plot_has_the_size_it_was_given(
    values: list[list[float | None]], width: int, height: int
) -> None:
    drawn = rows(
        *(PlotLine(f"line{n}", v, "") for n, v in enumerate(values)), width=width, height=height
    )

    assert len(drawn) == height
    assert {len(row) for row in drawn} == {width}


def test_a_rising_line_starts_low_and_ends_high() -> None:
    drawn = [braille(row) for row in rows(PlotLine("up", [0.0, 5.0, 10.0], ""))]

    assert drawn[0]
    assert drawn[10]
    assert rows(PlotLine("up", [0.0, 10.0], ""))[10].index(drawn[10][0]) == 4  # right of the axis


@given(last=st.lists(st.floats(0, 10), min_size=2, max_size=4), height=st.integers(6, 20))
def test_every_line_has_its_name_and_newest_value_at_its_end(
    last: list[float], height: int
) -> None:
    lines = [PlotLine(f"name{n}", [0.0, value], "") for n, value in enumerate(last)]

    text = "\n".join(rows(*lines, height=height))

    for n, value in enumerate(last):
        assert f"name{n} {value:.1f}" in text


def test_lines_of_different_patterns_differ_without_colour() -> None:
    patterns = [(1,), (1, 1, 1, 1, 0, 0), (1, 0, 0), (1, 1, 1, 0, 1, 0)]
    flat = ["".join(rows(PlotLine("x", [5.0] * 9, "", pattern))) for pattern in patterns]

    assert len(set(flat)) == len(patterns)


def test_a_step_without_a_figure_leaves_a_gap() -> None:
    whole = braille("".join(rows(PlotLine("x", [5.0] * 7, ""))))
    gap = braille("".join(rows(PlotLine("x", [5.0, 5.0, None, None, None, 5.0, 5.0], ""))))

    assert len(gap) < len(whole)


def test_a_single_step_is_a_dot_and_none_is_nothing() -> None:
    assert len(braille("".join(rows(PlotLine("x", [5.0], ""))))) == 1
    assert braille("".join(rows(PlotLine("x", [], "")))) == ""
    assert braille("".join(rows(PlotLine("x", [None, None], "")))) == ""


def test_more_steps_than_dots_keep_their_shape() -> None:
    short = [n / 10 for n in range(101)]
    long = [n / 1000 for n in range(10_001)]

    few, many = rows(PlotLine("x", short, "")), rows(PlotLine("x", long, ""))

    alike = sum(a == b for a, b in zip("".join(few), "".join(many), strict=True))
    assert alike > 0.9 * len("".join(few))


def test_the_first_and_the_last_step_stand_below() -> None:
    axis = draw_plot(
        [PlotLine("x", [1.0] * 40, "")], low=0, high=1, width=80, height=9, first=3
    ).plain.split("\n")[-1]

    assert axis.split() == ["3", "10", "20", "30", "40", "42", "step"]


@pytest.mark.parametrize("size", [(1, 1), (5, 1), (8, 2)])
def test_where_there_is_no_room_nothing_is_drawn(size: tuple[int, int]) -> None:
    assert (
        braille("".join(rows(PlotLine("name", [1.0, 2.0], ""), width=size[0], height=size[1])))
        == ""
    )
