"""Ranges of a search as they are typed: their scale, the values in them, and what is refused."""

from __future__ import annotations

import pytest

from ida_tui.errors import UsageError
from ida_tui.sweep.grid import parse_grid
from ida_tui.sweep.ranges import is_range, parse_range, range_as_json, range_from_json

RATES = "training.learning_rate"


@pytest.mark.parametrize(
    ("key", "text", "described"),
    [
        (RATES, "1e-5..1e-3", "1e-5..0.001 (log)"),
        (RATES, "1e-3..9e-3", "0.001..0.009"),
        (RATES, "1..20", "1..20 (log)"),
        ("lora.r", "4..64", "4..64 (log)"),
        ("lora.r", "4..8", "4..8"),
        ("training.beta", "0..0.1", "0..0.1"),
        ("rubric.axes.brief.options.words", "10..90", "10..90"),
    ],
)
def test_a_range_of_a_factor_of_ten_is_logarithmic(key: str, text: str, described: str) -> None:
    assert is_range(text)
    parsed = parse_range(key, text)
    assert parsed.describe() == described
    assert range_from_json(range_as_json(parsed)) == parsed


def test_the_values_of_a_whole_number_are_whole_numbers() -> None:
    assert parse_range("lora.r", "4..64").is_integer
    assert not parse_range(RATES, "1..20").is_integer
    assert parse_range("training.extra.some_count", "1..20").is_integer
    assert not parse_range("training.extra.some_fraction", "0.5..0.9").is_integer


def test_a_suggested_value_has_three_digits_and_stays_inside_of_its_range() -> None:
    parsed = parse_range(RATES, "1.2345e-5..1e-3")
    assert parsed.format(parsed.round(3.14159e-4)) == "0.000314"
    assert parsed.format(parsed.round(5.55555e-5)) == "5.56e-5"
    assert parsed.round(1.23451e-5) == 1.2345e-5
    assert float(parsed.format(1.2345e-5)) == 1.2345e-5


@pytest.mark.parametrize(
    "text", ["1e-3", "../prompts.yaml", "a..b", "1..b", "..", "v1..2", "[1..2]"]
)
def test_other_texts_are_no_ranges(text: str) -> None:
    assert not is_range(text)


@pytest.mark.parametrize(
    ("arguments", "trials", "title"),
    [
        ([f"{RATES}=1e-3..1e-5"], 4, 'the range "1e-3..1e-5" is reversed'),
        ([f"{RATES}=1e-3..1e-3"], 4, "has only one value"),
        ([f"{RATES}=1e-3.."], 4, "has no upper bound"),
        ([f"{RATES}=..1e-3"], 4, "has no lower bound"),
        ([f"{RATES}=1..inf"], 4, "are not finite numbers"),
        ([f"{RATES}=a..b"], 4, '"a..b" is not a range of numbers'),
        (["model=1..2"], 4, "model is not a number, so it has no range"),
        (["training.gradient_checkpointing=0..1"], 4, "is not a number, so it has no range"),
        (["lora.r=4.5..8"], 4, "lora.r is a whole number"),
        (["lora.r=4..6"], 3, "there are only 3 combinations for 3 trials"),
        ([f"{RATES}=1e-5..1e-3,1e-2"], 4, "has a range and other values"),
        (["seed=0..4"], 4, "the seed has no range"),
        (["budget=1..4"], 4, "budget cannot be varied"),
        ([f"{RATES}=1e-5..1e-3", "seed=0,1"], 4, "a search uses one seed"),
        (["seed=0,1"], 4, "--trials needs a range to search"),
        ([f"{RATES}=1e-5..1e-3"], None, "needs a number of trials"),
        ([f"{RATES}=1e-5..1e-3", "lora.r=4,8"], None, "needs a number of trials"),
    ],
)
def test_a_wrong_range_gets_one_error_that_says_what_to_write(
    arguments: list[str], trials: int | None, title: str
) -> None:
    with pytest.raises(UsageError) as error:
        parse_grid(arguments, trials=trials)
    assert title in error.value.title
    assert error.value.hint
    assert error.value.where.startswith("command line: ")


def test_the_bounds_and_listed_values_of_a_search_are_checked_together() -> None:
    grid = parse_grid([f"{RATES}=1e-5..1e-3", "training.loss_type=grpo,dapo"], trials=4)
    assert [tuple(values.values()) for values in grid.extremes()] == [
        ("1e-5", "grpo"), ("1e-5", "dapo"), ("0.001", "grpo"), ("0.001", "dapo"),
    ]  # fmt: skip
    many = [f"training.extra.key{n}=1..9" for n in range(8)]
    both_ends = parse_grid(many, trials=4).extremes()
    assert [set(values.values()) for values in both_ends] == [{"1"}, {"9"}]
