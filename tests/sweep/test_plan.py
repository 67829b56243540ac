"""Plans of sweeps: the grid of a command line, and what is refused before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.sweep import preflight
from ida_tui.sweep.grid import combination_label, parse_grid, split_values

RATES = "training.learning_rate"


def test_values_between_commas_make_a_grid_in_which_the_seed_changes_last() -> None:
    grid = parse_grid([f"{RATES}=1e-3,2e-3", "training.max_steps=4", "seed=0,1"])

    assert [combination_label(values) for values in grid.combinations] == [
        "learning_rate=1e-3 seed=0",
        "learning_rate=2e-3 seed=0",
        "learning_rate=1e-3 seed=1",
        "learning_rate=2e-3 seed=1",
    ]
    assert grid.fixed == ("training.max_steps=4",)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[csv]", ("[csv]",)),
        ("[csv, wandb]", ("[csv, wandb]",)),
        ("[csv],[csv, wandb]", ("[csv]", "[csv, wandb]")),
        ("'a, b'", ("'a, b'",)),
        ("don't,do", ("don't", "do")),
        ("{input: 1, output: 2}", ("{input: 1, output: 2}",)),
    ],
)
def test_a_comma_in_brackets_or_quotes_does_not_separate_values(
    text: str, values: tuple[str, ...]
) -> None:
    assert split_values("key", text) == values


@pytest.mark.parametrize(
    ("arguments", "title"),
    [
        (["seed=0"], "no key is varied"),
        (["seed=0,,1"], "has an empty value between commas"),
        (["seed=0,1,0"], '"0" is given twice'),
        (["seed=0,1", "seed=2"], "seed is given twice"),
        (["seed"], "is not key=value"),
        (["output_dir=a,b"], "output_dir cannot be varied"),
        (["seed=" + ",".join(map(str, range(1001)))], "1,001 combinations are too many"),
        ([f"{RATES}=1e-3,0.001"], "learning_rate=0.001 is the same run as learning_rate=1e-3"),
        ([f"{RATES}=1e-3,fast", "seed=0,1"], "learning_rate=fast seed=0: "),
        (["judge=offline,nobody"], "judge=nobody: there is no judge profile named"),
        (["device=cpu,cuda"], "device=cuda: device: this machine has no cuda device"),
    ],
)
def test_wrong_arguments_get_one_error_before_anything_is_written(
    arguments: list[str], title: str, ida_tui_here: Any
) -> None:
    result = ida_tui_here("sweep", "quickstart", *arguments)

    assert result.code == ExitCode.USAGE
    assert title in result.err.splitlines()[0]
    assert not Path("outputs").exists()


def test_a_combination_that_does_not_fit_in_memory_is_named_in_the_error() -> None:
    with pytest.raises(IdaError, match=r"seed=0 limit_gb=0.5: planned memory is") as error:
        preflight.plan_sweep("quickstart", ["seed=0,1", "limit_gb=8,0.5"])

    assert error.value.code is ExitCode.OUT_OF_MEMORY


def test_a_budget_requires_a_judge_with_a_price() -> None:
    overrides = ["seed=0,1", "judge=ollama", "judge.price=null"]

    with pytest.raises(UsageError, match="a budget needs a price"):
        preflight.plan_sweep("quickstart", overrides, budget=2.0)


def test_check_prints_the_plan_without_running_it(ida_tui_here: Any) -> None:
    result = ida_tui_here("sweep", "quickstart", f"{RATES}=1e-3,2e-3", "seed=0,1,2", "--check")

    assert result.code == 0
    assert result.out.startswith("✓ 2 values of training.learning_rate × 3 of seed = 6 runs")
    assert not Path("outputs").exists()


def test_the_error_without_optuna_explains_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, ida_tui_here: Any
) -> None:
    monkeypatch.setattr("ida_tui.sweep.study.find_spec", lambda name: None)

    result = ida_tui_here("sweep", "quickstart", "lora.r=4..64", "--trials", "4")

    assert result.code == ExitCode.USAGE
    assert "a search needs optuna" in result.err
    assert "uv sync --extra sweep" in result.err
