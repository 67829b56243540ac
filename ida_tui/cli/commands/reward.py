"""The command `ida-tui reward check PROFILE [key=value ...]`: check a reward before you train with it."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from ida_tui.cli.output.lines import print_lines
from ida_tui.errors import ExitCode, UsageError
from ida_tui.util import text

if TYPE_CHECKING:
    from ida_tui.config.schema import Config
    from ida_tui.config.scoring.axes import Scores
    from ida_tui.config.trust.consent import Use
    from ida_tui.rewards.check import JudgedScores
    from ida_tui.rewards.known_answers import KnownAnswer
    from ida_tui.rewards.rows import TokenIds

DEFAULT_ROWS = 8
MAX_ROWS = 1000

EPILOG = """\
examples:
  ida-tui reward check quickstart rubric=rewards.py prompts=sums.yaml
  ida-tui reward check quickstart rubric=rewards.py prompts=sums.yaml --gold answer --rows 20
  ida-tui reward check quickstart rubric=rewards.py prompts=sums.yaml --gold-format '<a>{}</a>' --json
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument("action", choices=["check"], help="score answers whose worth is known")
    parser.add_argument("name", metavar="PROFILE", help="experiment whose reward is checked")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a config value")
    parser.add_argument(
        "--rows",
        type=int,
        default=DEFAULT_ROWS,
        metavar="N",
        help=f"prompts to draw from the data (default {DEFAULT_ROWS})",
    )
    parser.add_argument(
        "--gold",
        metavar="COLUMN",
        help="column of the right answers (default: answer, reference, …)",
    )
    parser.add_argument(
        "--gold-format",
        default="{}",
        metavar="TEXT",
        help="text of a right answer, with {} in place of the column's value",
    )
    parser.add_argument(
        "--judge", action="store_true", help="also ask the judge, which may cost money"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(options: Namespace) -> ExitCode:
    """Check the reward; DONE if nothing is wrong, otherwise FAILED.

    Raises:
        UsageError: a value is wrong, or nothing of the reward is computed.
        IdaError: a function or the judge cannot be used.
    """
    if not 1 <= options.rows <= MAX_ROWS:
        raise UsageError(f"--rows must be from 1 to {MAX_ROWS}", "8 prompts show most faults")
    if "{}" not in options.gold_format:
        raise UsageError("--gold-format has no {}", "such as --gold-format '<answer>{}</answer>'")
    from ida_tui.cli.output.reward import reward_header
    from ida_tui.config.resolve import resolve
    from ida_tui.config.scoring.reward_files import is_function_key
    from ida_tui.config.scoring_checks.rubric import check_rubric
    from ida_tui.config.validation import origin_of
    from ida_tui.rewards.check import check_rewards
    from ida_tui.rewards.check_text import as_json, render_report

    uses: tuple[Use, ...] = ("functions", "judge") if options.judge else ("functions",)
    # The reward can be checked while the rest of the profile does not make a run yet.
    resolved = resolve(options.name, options.overrides, verify=False, uses=uses)
    config = resolved.config
    if config.prompts.source is not None:
        config.prompts.load(download=True)
    for finding in check_rubric(config):
        # A function without its file or its column is a result of the check.
        if finding.severity == "error" and not is_function_key(finding.about):
            where = f"{origin_of(resolved.origins, finding.about)}: {finding.about}"
            raise UsageError(finding.text, finding.fix, where=where)
    with _judge(config) if options.judge else nullcontext((None, "")) as (judged, judge):
        report = check_rewards(
            config,
            rows=options.rows,
            gold_column=options.gold,
            gold_format=options.gold_format,
            judged=judged,
            judge=judge,
            load_tokenizer=lambda: _local_token_ids(config),
            before_functions=lambda: print_lines(
                reward_header(config), file=sys.stderr if options.json else None
            ),
        )
    if options.json:
        print(text.as_json(as_json(report), indent=2))
    else:
        print_lines(render_report(report))
    return ExitCode.DONE if report.trusted else ExitCode.FAILED


def _local_token_ids(config: Config) -> TokenIds | None:
    from ida_tui.engine import libraries

    libraries.set_library_defaults(config.model.folder())  # before torch is imported
    from ida_tui.engine.model import load

    return load.local_token_ids(config.model)


@contextmanager
def _judge(config: Config) -> Iterator[tuple[JudgedScores | None, str]]:
    """The judge of an experiment, and its label; none if nothing is judged."""
    from ida_tui.config.conversation import prompt_context
    from ida_tui.judge.api_key import load_api_key
    from ida_tui.judge.service import JudgeService
    from ida_tui.judge.verdict import JudgeRequest

    if not config.rubric.judged_axes:
        yield None, ""
        return
    key = load_api_key(config.judge, dotenv_dir=Path.cwd())
    with JudgeService(config.judge, config.rubric, config.prompts, key=key) as service:
        service.probe_endpoint().result()

        def judged(answers: Sequence[KnownAnswer]) -> list[tuple[Scores, str | None]]:
            verdicts, _ = service.score_batch(
                [
                    JudgeRequest(
                        answer.prompt.id,
                        answer.prompt.text,
                        answer.prompt.kind,
                        answer.text,
                        context=prompt_context(answer.prompt, config.prompts.system),
                    )
                    for answer in answers
                ]
            )
            return [(verdict.scores, verdict.failure) for verdict in verdicts]

        yield judged, service.label
