"""The command `ida-tui rescore RUN [formula=… weights.AXIS=… scale_rewards=…]`: recompute the rewards."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from ida_tui.cli.arguments import add_run_argument
from ida_tui.cli.output.lines import print_lines
from ida_tui.config.scoring.axes import FORMULA_NAMES
from ida_tui.errors import ExitCode, UsageError
from ida_tui.util.text import quoted

if TYPE_CHECKING:
    from ida_tui.analysis.rescore import RewardScale
    from ida_tui.config.schema import RubricConfig

DEFAULT_FORMULA = "ungated"

EPILOG = """\
formulas: r_ida, ungated, align-only, weakest, weighted (with weights.align=2 and so on), or arithmetic over
the axes of the run: + - * / **, comparisons, `a if b else c`, min, max, abs, sqrt

examples:
  ida-tui rescore quickstart formula=ungated
  ida-tui rescore quickstart formula=weighted weights.risk=3 weights.detail=0
  ida-tui rescore quickstart 'formula=0 if risk < 5 else align * detail / 100'
  ida-tui rescore quickstart formula=r_ida scale_rewards=group
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.formatter_class = RawDescriptionHelpFormatter
    add_run_argument(parser)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="setting=value",
        help=f"formula= (default: {DEFAULT_FORMULA}), weights.AXIS=, scale_rewards=",
    )
    parser.add_argument("--json", action="store_true", help="print the figures and curves as JSON")


def run(options: Namespace) -> ExitCode:
    """Recompute the rewards of a run and print the differences.

    Raises:
        UsageError: there is no such run, it has no saved scores, or an argument is wrong.
    """
    from ida_tui.analysis.rescore import rescore
    from ida_tui.cli.output.rescore import as_json, rescore_lines
    from ida_tui.config.resolve import resolve
    from ida_tui.config.scoring.axes import IDA_AXES, WEIGHTED
    from ida_tui.events.scoring import change_sentences
    from ida_tui.rewards.formulas import parse_formula
    from ida_tui.runs.catalog.lookup import find_run
    from ida_tui.runs.log.replay import read_final_state

    text, weights, scale = _parse_options(options.words)
    directory = find_run(options.name, Path("outputs"))
    config = resolve(str(directory.config), verify=False).config
    run_scale = config.training.scale_rewards
    state = read_final_state(directory)
    text = text or (WEIGHTED if weights else DEFAULT_FORMULA if state.axes == IDA_AXES else "")
    if not text:
        names = ", ".join(axis.name for axis in state.axes)
        raise UsageError("no formula is given", f"write one over {names}: formula=…")
    new_formula = parse_formula(text, state.axes, weights=weights)
    rescoring = rescore(
        directory,
        new_formula,
        old_scale=run_scale,
        new_scale=scale or run_scale,
        after_step=state.scored_since_step,
    )
    name = f"{directory.path.parent.name}/{directory.run_id}"
    if options.json:
        print(json.dumps(as_json(name, rescoring), indent=1, ensure_ascii=False))
    else:
        changes = [f"! {text}" for text in change_sentences(state.scoring)[-1:]]
        print_lines([*changes, *rescore_lines(name, rescoring, _short_label(config.rubric))])
    return ExitCode.DONE


def _short_label(rubric: RubricConfig) -> str:
    """A short label of the run's reward."""
    formula = rubric.formula_text
    return formula if formula in FORMULA_NAMES else rubric.reward_name


def _parse_options(arguments: list[str]) -> tuple[str, dict[str, float], RewardScale | None]:
    """Formula, weights and scale from the arguments; empty or None if they are not given."""
    from ida_tui.analysis.rescore import RewardScale

    text = ""
    scale: RewardScale | None = None
    weights: dict[str, float] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key == "formula" and value.strip():
            text = value
        elif equals and key.startswith("weights."):
            weights[key.removeprefix("weights.")] = _parse_number(key, value)
        elif key == "scale_rewards":
            scale = next((option for option in get_args(RewardScale) if option == value), None)
            if scale is None:
                raise UsageError(
                    f"scale_rewards must be one of {', '.join(get_args(RewardScale))}, not {quoted(value)}",
                    "choose one of these, or remove scale_rewards= to use the run's value",
                    where="command line",
                )
        else:
            raise UsageError(
                f"rescore does not accept {quoted(argument)}",
                "use formula=…, weights.AXIS=… and scale_rewards=…",
                where="command line",
            )
    return text, weights, scale


def _parse_number(key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UsageError(
            f"{key} must be a number, not {quoted(value)}", f"{key}=2", where="command line"
        ) from None
