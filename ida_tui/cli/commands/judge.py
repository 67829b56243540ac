"""The command `ida-tui judge check [JUDGE] [key=value ...]`: check a judge before you train with it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import asdict, replace
from pathlib import Path

from ida_tui.cli.output.lines import print_lines
from ida_tui.config.schema import Config
from ida_tui.errors import ExitCode, UsageError
from ida_tui.util import text

DEFAULT_JUDGE = "gpt-4o-mini"
DEFAULT_SAMPLES = 3

EPILOG = """\
examples:
  ida-tui judge check gpt-4o-mini
  ida-tui judge check offline --samples 1
  ida-tui judge check ollama judge.model=qwen3:8b --samples 5 --json
  ida-tui judge check gpt-4o-mini judge.mode=group       all answers to a prompt in one call
  ida-tui judge check gpt-4o-mini --gold gold.jsonl      also against answers that you have labeled
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("action", choices=["check"], help="score ten fixed answers")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="JUDGE key=value",
        help=f"judge profile (default: {DEFAULT_JUDGE}), and values to change (judge.model=…, rubric=…)",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=DEFAULT_SAMPLES,
        metavar="K",
        help="verdicts per answer (default 3)",
    )
    parser.add_argument(
        "--gold",
        metavar="FILE",
        help="also score the answers of this data file, and compare with your scores and labels in it",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(options: Namespace) -> ExitCode:
    """Check the judge; DONE if every finding is good, otherwise FAILED.

    Raises:
        UsageError: there is no such judge, or a value is wrong.
        JudgeUnavailable: the judge cannot be used.
    """
    if not 1 <= options.samples <= 100:
        raise UsageError(
            "--samples must be from 1 to 100", "3 are enough to separate noise from differences"
        )
    words = options.words
    if options.gold is not None:
        words = [*words, f"judge.gold={text.as_json(options.gold)}"]
    config = _judge_config(words)
    from ida_tui.cli.output.judge import judge_header
    from ida_tui.judge.api_key import load_api_key
    from ida_tui.judge.calibration import check
    from ida_tui.judge.calibration.anchors import anchor_prompts
    from ida_tui.judge.calibration.gold import check_judge_on_gold, load_gold_of
    from ida_tui.judge.calibration.mode_tokens import mode_tokens
    from ida_tui.judge.service import JudgeService

    gold = load_gold_of(config)
    key = load_api_key(config.judge, dotenv_dir=Path.cwd())
    with JudgeService(config.judge, config.rubric, anchor_prompts(), key=key) as service:
        if not options.json:
            print_lines(judge_header(config))
        fault = service.probe_endpoint().result()
        if not options.json and service.slots is not None:
            print_lines(["✓ endpoint answers" if fault is None else f"! {fault.text}"])
        report = check.check_judge(
            service, verdicts_per_anchor=options.samples, reward=config.rubric.reward_name
        )
        output_format = service.output_format
        warnings = list(service.warnings)
    if gold is not None:
        report = replace(report, gold=check_judge_on_gold(config, gold, key))
    tokens = mode_tokens(config.judge, config.rubric, report)
    if options.json:
        values = check.as_json(report) | {"form": output_format, "mode": config.judge.mode}
        if tokens is not None:
            values["modes"] = asdict(tokens)
        print(text.as_json(values, indent=2))
    else:
        from ida_tui.judge.calibration.check_text import render_report

        offline = config.judge.kind == "offline"
        print_lines(
            render_report(
                report,
                output_format,
                warnings,
                offline=offline,
                tokens="" if tokens is None else tokens.text(),
            )
        )
    return ExitCode.DONE if report.trusted else ExitCode.FAILED


def _judge_config(arguments: list[str]) -> Config:
    from ida_tui.config.resolve import resolve

    names = [argument for argument in arguments if "=" not in argument]
    if len(names) > 1:
        raise UsageError(
            f"two judges are given: {names[0]} and {names[1]}", "check one judge at a time"
        )
    name = names[0] if names else DEFAULT_JUDGE
    overrides = [argument for argument in arguments if "=" in argument]
    config = resolve("quickstart", [f"judge={name}", *overrides], uses=("judge",)).config
    if not config.rubric.judged_axes:
        raise UsageError(
            f"functions compute all scores of the rubric {config.rubric.name}, so there is no judge to check",
            f"check the functions instead: ida-tui reward check PROFILE rubric={config.rubric.name}",
        )
    return config
