"""The command `ida-tui judge check [JUDGE] [key=value ...]`: check a judge before you train with it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
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
    config = _judge_config(options.words)
    from ida_tui.cli.output.judge import judge_header
    from ida_tui.judge.api_key import load_api_key
    from ida_tui.judge.calibration import check
    from ida_tui.judge.calibration.anchors import anchor_prompts
    from ida_tui.judge.service import JudgeService

    key = load_api_key(config.judge, dotenv_dir=Path.cwd())
    with JudgeService(config.judge, config.rubric, anchor_prompts(), key=key) as service:
        if not options.json:
            print_lines(judge_header(config))
        fault = service.probe_endpoint().result()
        if not options.json and service.slots is not None:
            print_lines(["✓ endpoint answers" if fault is None else f"! {fault.text}"])
        report = check.check_judge(service, verdicts_per_anchor=options.samples)
        output_format = service.output_format
        warnings = list(service.warnings)
    if options.json:
        print(text.as_json(check.as_json(report) | {"form": output_format}, indent=2))
    else:
        from ida_tui.judge.calibration.check_text import render_report

        offline = config.judge.kind == "offline"
        print_lines(render_report(report, output_format, warnings, offline=offline))
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
    return resolve("quickstart", [f"judge={name}", *overrides], uses=("judge",)).config
