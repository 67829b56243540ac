"""`ida-tui rescore RUN [formula=… weights.AXIS=… scale_rewards=…]`: what another reward would have paid."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from ida_tui.errors import ExitCode, UsageError
from ida_tui.util.text import printable, quoted

if TYPE_CHECKING:
    from ida_tui.analysis.advantages import Scale

DEFAULT = "ungated"

EPILOG = """\
formulas: r_ida, ungated, align-only, weakest, weighted (with weights.align=2 and so on), or arithmetic over
align, risk and detail: + - * / **, comparisons, `a if b else c`, min, max, abs, sqrt

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
    parser.add_argument(
        "name", metavar="RUN", help="its folder, its id, or an experiment (its newest run)"
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="key=value",
        help=f"formula= (default: {DEFAULT}), weights.AXIS=, scale_rewards=",
    )
    parser.add_argument("--json", action="store_true", help="the figures and curves as JSON")


def run(options: Namespace) -> ExitCode:
    """Re-score the run and print what would have changed.

    Raises:
        UsageError: there is no such run, it has kept no scores, or a word is wrong.
    """
    from ida_tui.analysis.rescore import rescore
    from ida_tui.cli.output.rescore import as_json, lines
    from ida_tui.config.resolve import resolve
    from ida_tui.rewards.formulas import WEIGHTED, formula
    from ida_tui.runs.resume import find

    text, weights, scale = _words(options.words)
    chosen = formula(text or (WEIGHTED if weights else DEFAULT), weights)
    directory = find(options.name, Path("outputs"))
    own = resolve(str(directory.config), verify=False).config.training.scale_rewards
    found = rescore(directory, chosen, old_scale=own, scale=scale or own)
    name = f"{directory.path.parent.name}/{directory.run_id}"
    if options.json:
        print(json.dumps(as_json(name, found), indent=1, ensure_ascii=False))
    else:
        print(*map(printable, lines(name, found)), sep="\n")
    return ExitCode.DONE


def _words(words: list[str]) -> tuple[str, dict[str, float], Scale | None]:
    """Formula, weights and scale as they were typed; empty or None where they were not."""
    from ida_tui.analysis.advantages import Scale

    text = ""
    scale: Scale | None = None
    weights: dict[str, float] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key == "formula" and value.strip():
            text = value
        elif equals and key.startswith("weights."):
            weights[key.removeprefix("weights.")] = _number(key, value)
        elif key == "scale_rewards":
            scale = next((one for one in get_args(Scale) if one == value), None)
            if scale is None:
                raise UsageError(
                    f"scale_rewards is one of {', '.join(get_args(Scale))}, not {quoted(value)}",
                    "leave it out for the run's own",
                    where="command line",
                )
        else:
            raise UsageError(
                f"{quoted(word)} is nothing that can be changed here",
                "formula=…, weights.align=…, weights.risk=…, weights.detail=…, scale_rewards=…",
                where="command line",
            )
    return text, weights, scale


def _number(key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UsageError(
            f"{key} is no number: {quoted(value)}", f"{key}=2", where="command line"
        ) from None
