"""`ida-tui evaluate RUN`: the model before and after, on prompts that it was not trained on."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ida_tui.errors import ExitCode, IdaError, UsageError
from ida_tui.util.text import printable

if TYPE_CHECKING:
    from ida_tui.config.prompt_files import Chosen
    from ida_tui.config.schema import Config
    from ida_tui.runs.directory import RunDirectory

EPILOG = """\
examples:
  ida-tui evaluate quickstart                      its newest run, its own held-out prompts
  ida-tui evaluate quickstart --samples 8 --seed 1
  ida-tui evaluate oblit-1-mps --prompts xstest_prompts.csv
  ida-tui evaluate oblit-1-mps --prompts harmful.csv --kind unsafe
  ida-tui evaluate oblit-1-mps --judge ollama judge.model=qwen3:8b
"""
OPEN = ("judge", "rubric", "evaluation", "budget", "device", "engine")
"""What may be another than in the run; the rest is what the weights were made with."""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "name", metavar="RUN", help="its folder, its id, or an experiment (its newest run)"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change a value")
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="other prompts: .csv (prompt,kind; XSTest's or JBB-Behaviors' columns), .jsonl, or a"
        " prompts profile",
    )
    parser.add_argument(
        "--kind", choices=["harmless", "unsafe"], help="of every prompt of a file that does not say"
    )
    parser.add_argument(
        "--samples", type=int, metavar="N", help="answers of each model to each prompt"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of the sampling; the run's own")
    parser.add_argument("--judge", metavar="NAME", help="another judge than the run's")
    parser.add_argument("--json", action="store_true", help="the evaluation as JSON")


def run(options: Namespace) -> ExitCode:
    """Evaluate, print the table, and keep the evaluation with the run.

    Raises:
        UsageError: there is no such run, it has no weights, or the prompts cannot be used.
        IdaError: the model or the judge cannot be used.
    """
    from ida_tui.judge.api_key import load_key
    from ida_tui.runs import resume as resumption
    from ida_tui.runs import weights as trained

    directory = resumption.find(options.name, Path("outputs"))
    config = _config(directory, options)
    found = trained.trained(directory, config)
    chosen, notes = _prompts(config, options)
    samples = config.evaluation.samples if options.samples is None else options.samples
    seed = config.seed if options.seed is None else options.seed
    if not 1 <= samples <= 1000:
        raise UsageError("--samples goes from 1 to 1000", "4 are what most profiles take")
    if not 0 <= seed < 2**32:
        raise UsageError("--seed goes from 0 to 4294967295")
    key = load_key(config.judge, dotenv_dir=Path.cwd())
    shown = f"{config.name}/{directory.run_id}"
    _say(f"{shown} ({found.words}), before and after, on {len(chosen.prompts)} prompts")
    from ida_tui.engine import libraries as environment

    # Before torch is imported.
    environment.prepare(config.model.folder())
    from ida_tui.analysis.evaluation_table import lines
    from ida_tui.engine.inference.evaluate import evaluate
    from ida_tui.runs.store import evaluations

    evaluation, answers = evaluate(
        config, found, chosen, samples=samples, seed=seed, key=key, notes=notes, tell=_say
    )
    try:
        folder = evaluations.write(directory, evaluation, answers)
    except OSError as error:
        raise IdaError(
            f"{directory.path} cannot be written to: {error.strerror or error}"
        ) from None
    _say(f"kept in {folder}")
    if options.json:
        print(
            json.dumps(asdict(evaluation) | {"folder": str(folder)}, ensure_ascii=False, indent=1)
        )
    else:
        print(*map(printable, lines(evaluation)), sep="\n")
    return ExitCode.DONE


def _config(directory: RunDirectory, options: Namespace) -> Config:
    from ida_tui.config.resolve import resolve

    for override in options.overrides:
        key = override.partition("=")[0]
        if key.split(".")[0] not in OPEN:
            raise UsageError(
                f"{key} cannot be another than when the run was trained",
                f"what can be changed: {', '.join(OPEN)}, such as evaluation.temperature=0",
                where=f"command line: {key}",
            )
    named = [f"judge={options.judge}"] if options.judge else []
    return resolve(str(directory.config), [*named, *options.overrides]).config


def _prompts(config: Config, options: Namespace) -> tuple[Chosen, list[str]]:
    """What is asked, and what a reader should know about it."""
    from ida_tui.config.prompt_files import Chosen, load

    if options.prompts:
        found = load(options.prompts, options.kind)
    elif options.kind:
        raise UsageError("--kind goes with --prompts", "the run's own prompts tell their kind")
    else:
        found = Chosen(f"{config.prompts.name}, held out", tuple(config.prompts.held_out()))
        if not found.prompts:
            raise UsageError(
                "the run's prompts keep none apart to evaluate with", "name some: --prompts FILE"
            )
    chosen = found.apart_from(config.prompts.train())
    left = len(found.prompts) - len(chosen.prompts)
    if not chosen.prompts:
        raise UsageError(
            "all of these prompts were trained on: they say nothing about others",
            "evaluate with others: --prompts FILE",
        )
    note = f"{left} of {len(found.prompts)} prompts were trained on, or repeat another: left out"
    return chosen, [note] if left else []


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)
