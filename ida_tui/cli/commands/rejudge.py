"""The command `ida-tui replay-judge RUN judge=NAME …`: judge a run's completions again and compare."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from contextlib import closing
from pathlib import Path

from ida_tui.cli.arguments import add_run_argument
from ida_tui.cli.output.lines import print_lines
from ida_tui.config.schema import Config
from ida_tui.errors import ExitCode, UsageError

DEFAULT_SAMPLE = 200

EPILOG = """\
examples:
  ida-tui replay-judge quickstart judge=ollama --sample 50
  ida-tui replay-judge quickstart judge=gpt-4o-mini budget=0.20
  ida-tui replay-judge oblit-1-mps rubric=mine --all

Verdicts are saved in the judge cache, so completions judged before are not paid for again.
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.formatter_class = RawDescriptionHelpFormatter
    add_run_argument(parser)
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="judge=NAME, rubric=NAME, budget=DOLLARS, or single values such as judge.model=…",
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "--sample",
        type=int,
        default=DEFAULT_SAMPLE,
        metavar="N",
        help=f"number of completions, drawn at random (default {DEFAULT_SAMPLE})",
    )
    amount.add_argument("--all", action="store_true", help="judge every completion that has scores")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the random draw")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(options: Namespace) -> ExitCode:
    """Judge the completions again and print how well the two judges agree.

    Raises:
        UsageError: there is no such run or judge, or nothing to judge.
        JudgeUnavailable: the judge cannot be used; the results so far are printed first.
    """
    if options.sample < 1:
        raise UsageError("--sample must be 1 or more", "to judge every completion, use --all")
    if not options.overrides:
        raise UsageError("no judge is given", "choose one: ida-tui replay-judge RUN judge=NAME")
    from ida_tui.analysis.rejudge import build_requests, draw_completions, estimate_cost, rejudge
    from ida_tui.cli.output.rejudge import as_json, rejudge_header, rejudge_lines, show_progress
    from ida_tui.config.resolve import resolve
    from ida_tui.events.scoring import change_sentences
    from ida_tui.judge.api_key import load_api_key
    from ida_tui.judge.budget import Budget
    from ida_tui.judge.service import JudgeService, JudgeServiceOptions
    from ida_tui.runs.catalog.lookup import find_run
    from ida_tui.runs.log.replay import read_final_state
    from ida_tui.runs.store.judge_costs import JudgeCosts

    directory = find_run(options.name, Path("outputs"))
    config = resolve(str(directory.config), options.overrides, verify=False, uses=("judge",)).config
    _check_budget(config)
    state = read_final_state(directory)
    if config.prompts.problem:
        raise UsageError(
            f"the prompts of the run are not known: {config.prompts.problem}", "put the data back"
        )
    kinds = {prompt.id: prompt.kind for prompt in config.prompts.rows()}
    drawn = draw_completions(
        directory,
        kinds,
        count=None if options.all else options.sample,
        seed=options.seed,
        after_step=state.scored_since_step,
    )
    if not drawn.completions:
        raise UsageError(
            f"{directory.path} has no scored completions",
            "choose another run; list the runs with: ida-tui runs",
        )
    trained_with = resolve(str(directory.config), [], verify=False).config.rubric.formula_text
    same_formula = config.rubric.formula_text == trained_with
    key = load_api_key(config.judge, dotenv_dir=Path.cwd())
    requests = build_requests(drawn.completions, kinds)
    name = f"{directory.path.parent.name}/{directory.run_id}"
    costs = JudgeCosts(directory, "replay-judge", earlier=state.judge.cost)
    # A budget on the command line is for this command; otherwise it shares the budget of the run.
    typed = any(override.startswith("budget=") for override in options.overrides)
    budget = Budget(config.budget, 0.0 if typed else costs.spent, costs)
    limited = JudgeServiceOptions(budget=budget)
    service = JudgeService(config.judge, config.rubric, config.prompts, key=key, options=limited)
    message_stream = sys.stderr if options.json else sys.stdout
    with closing(costs), service:
        cost = estimate_cost(config.judge, config.rubric, requests)
        header = rejudge_header(name, drawn, service.label, cost, options.seed)
        header += [f"! {text}" for text in change_sentences(state.scoring)[-1:]]
        if not same_formula:
            header.append("! The reward formulas differ, so only the axes are compared.")
        print_lines(header, file=message_stream)
        result = rejudge(
            service,
            drawn.completions,
            requests,
            same_formula=same_formula,
            on_progress=show_progress,
        )
        for warning in service.warnings:
            print_lines([f"! {warning}"], file=message_stream)
    if options.json:
        output = as_json(name, drawn, service.label, options.seed, result)
        print(json.dumps(output, indent=1, ensure_ascii=False))
    else:
        print_lines(rejudge_lines(result, state.reward_name))
    if result.unavailable is not None:
        raise result.unavailable
    return ExitCode.INTERRUPTED if result.interrupted else ExitCode.DONE


def _check_budget(config: Config) -> None:
    if config.budget is not None and config.judge.kind != "offline" and config.judge.price is None:
        raise UsageError(
            "a budget needs a price, but the judge profile has none",
            "set judge.price={input: DOLLARS, output: DOLLARS} per million tokens, or budget=null",
            where="judge.price",
        )
