"""The command `ida-tui evaluate RUN`: evaluate both models on held-out prompts."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ida_tui.cli.arguments import add_override_arguments, add_run_argument
from ida_tui.cli.output.lines import print_lines, print_status
from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.util.format import format_count

if TYPE_CHECKING:
    from ida_tui.config.prompt_files import EvaluationPrompts
    from ida_tui.config.schema import Config
    from ida_tui.runs.directory import RunDirectory

EPILOG = """\
examples:
  ida-tui evaluate quickstart                      evaluate its newest run on the run's held-out prompts
  ida-tui evaluate quickstart --samples 8 --seed 1
  ida-tui evaluate oblit-1-mps --prompts xstest_prompts.csv
  ida-tui evaluate oblit-1-mps --prompts harmful.csv --kind unsafe
  ida-tui evaluate oblit-1-mps --judge ollama judge.model=qwen3:8b
"""
CHANGEABLE_SECTIONS = ("judge", "rubric", "evaluation", "budget", "device", "engine")
"""Sections that may differ from the run; everything else was fixed when it was trained."""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    add_run_argument(parser)
    add_override_arguments(parser)
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="evaluate on other prompts: a .csv, .jsonl, .json or .parquet file (columns prompt,kind; or"
        " those of XSTest or JBB-Behaviors), a Hugging Face dataset, or a prompts profile",
    )
    parser.add_argument(
        "--kind",
        choices=["harmless", "unsafe"],
        help="kind of the prompts in a file without that column",
    )
    parser.add_argument(
        "--samples", type=int, metavar="N", help="answers per prompt from each model"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="sampling seed (default: the run's)")
    parser.add_argument("--judge", metavar="JUDGE", help="judge profile (default: the run's judge)")
    parser.add_argument("--json", action="store_true", help="print the evaluation as JSON")


def run(options: Namespace) -> ExitCode:
    """Evaluate both models, print the table and save the evaluation in the run directory.

    Raises:
        UsageError: there is no such run, it has no weights, or the prompts cannot be used.
        IdaError: the model or the judge cannot be used.
    """
    from ida_tui.judge.api_key import load_api_key
    from ida_tui.runs.catalog.lookup import find_run
    from ida_tui.runs.weights import find_weights

    directory = find_run(options.name, Path("outputs"))
    config = _evaluation_config(directory, options)
    weights = find_weights(directory, config)
    selected, notes = _select_prompts(config, options)
    samples = config.evaluation.samples if options.samples is None else options.samples
    seed = config.seed if options.seed is None else options.seed
    if not 1 <= samples <= 1000:
        raise UsageError("--samples must be from 1 to 1000", "most profiles use 4")
    if not 0 <= seed < 2**32:
        raise UsageError("--seed must be from 0 to 4294967295")
    key = load_api_key(config.judge, dotenv_dir=Path.cwd())
    shown = f"{config.name}/{directory.run_id}"
    print_status(
        f"Evaluating {shown} ({weights.label}) on {format_count(len(selected.prompts), 'prompt')},"
        " before and after training"
    )
    from ida_tui.engine import libraries

    # This must run before torch is imported.
    libraries.set_library_defaults(config.model.folder())
    from ida_tui.analysis.evaluation_table import evaluation_lines
    from ida_tui.engine.inference.evaluate import evaluate
    from ida_tui.judge.budget import Budget
    from ida_tui.planning.hub_download import require_model_here
    from ida_tui.runs.store import evaluations
    from ida_tui.runs.store.judge_costs import JudgeCosts

    require_model_here(config.model, print_status)
    with closing(JudgeCosts(directory, "evaluate", earlier=weights.state.judge.cost)) as costs:
        evaluation, answers = evaluate(
            config,
            weights,
            selected,
            samples=samples,
            seed=seed,
            key=key,
            budget=Budget(config.budget, costs.spent, costs),
            notes=notes,
            on_progress=print_status,
        )
    try:
        folder = evaluations.write_evaluation(directory, evaluation, answers)
    except OSError as error:
        raise IdaError(f"could not write to {directory.path}: {error.strerror or error}") from None
    print_status(f"Saved in {folder}")
    if options.json:
        print(
            json.dumps(asdict(evaluation) | {"folder": str(folder)}, ensure_ascii=False, indent=1)
        )
    else:
        print_lines(evaluation_lines(evaluation))
    return ExitCode.DONE


def _evaluation_config(directory: RunDirectory, options: Namespace) -> Config:
    from ida_tui.config.resolve import resolve
    from ida_tui.config.trust.consent import Use, is_consent_key

    for override in options.overrides:
        key = override.partition("=")[0]
        if key.split(".")[0] not in CHANGEABLE_SECTIONS and not is_consent_key(key):
            raise UsageError(
                f"{key} must be the same as when the run was trained",
                f"keys that can change: {', '.join(CHANGEABLE_SECTIONS)}, such as evaluation.temperature=0",
                where=f"command line: {key}",
            )
    judge_override = [f"judge={options.judge}"] if options.judge else []
    overrides = [*judge_override, *options.overrides]
    uses: tuple[Use, ...] = ("judge", "code", "functions")
    return resolve(str(directory.config), overrides, uses=uses).config


def _select_prompts(config: Config, options: Namespace) -> tuple[EvaluationPrompts, list[str]]:
    """The prompts to evaluate on, and notes about them for the reader."""
    from ida_tui.config.prompt_files import EvaluationPrompts, load_prompts
    from ida_tui.config.repeated_prompts import repeated_held_out_note

    if options.prompts:
        trained = config.prompts.train()[:100]
        about_refusals = not trained or any(prompt.kind for prompt in trained)
        loaded = load_prompts(options.prompts, options.kind, needs_kinds=about_refusals)
    elif options.kind:
        raise UsageError(
            "--kind needs --prompts",
            "add --prompts FILE; the run's own prompts already have a kind",
        )
    elif config.prompts.problem:
        raise UsageError(
            f"the held-out prompts of the run are not known: {config.prompts.problem}",
            "put the data back, or choose other prompts with --prompts FILE",
        )
    else:
        loaded = EvaluationPrompts(
            f"{config.prompts.name}, held out", tuple(config.prompts.held_out())
        )
        if not loaded.prompts:
            raise UsageError(
                "the run has no held-out prompts", "choose other prompts with --prompts FILE"
            )
    selected = loaded.without_trained(config.prompts.train())
    skipped = len(loaded.prompts) - len(selected.prompts)
    if not selected.prompts:
        raise UsageError(
            "the run was trained on all of these prompts",
            "choose other prompts with --prompts FILE",
        )
    if not options.prompts:
        note = repeated_held_out_note(config.prompts)
        return selected, [note] if note else []
    notes = list(loaded.notes)
    if config.prompts.problem:
        notes.append(
            f"the training prompts are not known ({config.prompts.problem}): some of these prompts may"
            " have been trained on"
        )
    if skipped:
        notes.append(
            f"{skipped} of {len(loaded.prompts)} prompts skipped: duplicates, or used in training"
        )
    return selected, notes
