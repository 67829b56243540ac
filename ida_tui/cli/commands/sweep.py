"""The command `ida-tui sweep PROFILE key=a,b,c seed=0,1,2`: train one run per combination of values.

With ranges and `--trials N`, Optuna suggests the combinations.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ida_tui.cli.output.lines import print_lines
from ida_tui.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from ida_tui.sweep.directory import Sweep
    from ida_tui.sweep.processes import Host

MAX_TRIALS = 1000
OUTPUTS_FOLDER = Path("outputs")
EPILOG = """\
examples:
  ida-tui sweep quickstart training.learning_rate=1e-3,2e-3 seed=0,1,2
  ida-tui sweep dev-mps model=qwen3-0.6b,qwen3-1.7b judge=ollama --budget 2
  ida-tui sweep quickstart seed=0,1,2 'report_to=[csv]'     a list in brackets counts as one value
  ida-tui sweep quickstart lora.r=4..64 --trials 20         search a range, with Optuna
  ida-tui sweep quickstart seed=0,1,2,3 --ray auto          train on the Ray cluster of this machine
  ida-tui sweep --resume                                    resume the newest sweep
  ida-tui sweep --show                                      print the current table of the newest sweep

Every run is an ordinary run in outputs/<experiment>/. All runs share the judge cache (ida-tui cache), so
no verdict is paid for twice. With NVIDIA GPUs, every run has one to itself, and as many runs are trained at
once. Otherwise runs are trained one at a time unless --jobs allows more; on a CPU, parallel runs share its
cores.

exit codes: 0 all runs are done, or were stopped by the search for their reward, 1 a run failed, 3 paused
because of the judge or the budget, 130 stopped (checkpoints were written)
"""


def add(parser: ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "words",
        nargs="*",
        metavar="PROFILE key=a,b,c",
        help="experiment profile, and the values to vary or to set; key=low..high with --trials",
    )
    parser.add_argument(
        "--trials",
        type=_parse_trials,
        metavar="N",
        help="search the ranges with this many runs, whose values Optuna suggests",
    )
    parser.add_argument(
        "--jobs",
        type=_parse_jobs,
        metavar="N",
        help="parallel runs, if their planned memory fits (default: one on each GPU, else 1)",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="train on a Ray cluster: host:port, or auto for that of this machine",
    )
    parser.add_argument(
        "--budget",
        type=_parse_dollars,
        metavar="DOLLARS",
        help="limit on the judge costs of all runs",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="SWEEP",
        help="resume a sweep (default: the newest)",
    )
    mode.add_argument(
        "--show",
        nargs="?",
        const="",
        metavar="SWEEP",
        help="print the table of a sweep (default: the newest)",
    )
    mode.add_argument(
        "--check", action="store_true", help="check every combination without starting a run"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the table as JSON, and messages on stderr"
    )


def run(options: Namespace) -> ExitCode:
    """Start, resume or show a sweep.

    Raises:
        IdaError: a combination is wrong or does not fit, there is no such sweep, or it cannot run.
    """
    from ida_tui.config.trust.consent import is_consent_key
    from ida_tui.sweep import directory

    if options.show is not None or options.resume is not None:
        flag = "--resume" if options.show is None else "--show"
        agrees = flag == "--resume" and all(
            is_consent_key(word.partition("=")[0]) for word in options.words
        )
        if options.words and not agrees:
            raise UsageError(
                f"{flag} does not accept new values, such as {options.words[0]!r}",
                "the values of a sweep are fixed; start another sweep for other values",
            )
    if options.show is not None:
        used = [name for name in ("jobs", "budget", "trials", "ray") if getattr(options, name)]
        if used:
            raise UsageError(
                f"--show does not accept --{used[0]}", f"use --{used[0]} with --resume instead"
            )
        from ida_tui.cli.output.sweep import show_sweep

        return show_sweep(directory.find_sweep(options.show, OUTPUTS_FOLDER), json=options.json)
    from ida_tui.cli.output.streams import background_output

    with background_output():
        return _start(options) if options.resume is None else _resume(options)


def _resume(options: Namespace) -> ExitCode:
    from dataclasses import replace

    from ida_tui.cli.output.sweep import run_sweep
    from ida_tui.sweep import directory, preflight, study

    sweep = directory.find_sweep(options.resume, OUTPUTS_FOLDER)
    if sweep.trials is not None:
        study.require_optuna()
    directory.require_safe_files(sweep)
    preflight.require_consent_to(sweep, options.words)
    _check_trials(sweep, options.trials)
    changed = replace(
        sweep,
        jobs=options.jobs or sweep.jobs,
        budget=sweep.budget if options.budget is None else options.budget,
        trials=options.trials or sweep.trials,
    )
    if changed != sweep:
        directory.save(changed)
    with _find_host(options) as host:
        return run_sweep(changed, host, json=options.json)


def _check_trials(sweep: Sweep, trials: int | None) -> None:
    """Check a new number of trials for a sweep that is resumed.

    Raises:
        UsageError: the sweep is not a search, or has more runs already.
    """
    if trials is None:
        return
    if sweep.trials is None:
        raise UsageError(
            "this sweep is no search, so it has no --trials",
            "its runs are fixed; start a search with key=low..high and --trials",
        )
    if trials < len(sweep.combinations):
        raise UsageError(
            f"this search already has {len(sweep.combinations)} runs, more than {trials}",
            f"give --trials {len(sweep.combinations)} or more",
        )


def _start(options: Namespace) -> ExitCode:
    if not options.words:
        raise UsageError(
            "no experiment is given",
            "choose one: ida-tui sweep quickstart training.learning_rate=1e-3,2e-3",
        )
    from ida_tui.sweep import preflight, study

    profile, *arguments = options.words
    if "=" in profile and not Path(profile).is_file():
        raise UsageError(
            f"expected an experiment before {profile!r}",
            "put the experiment first: ida-tui sweep quickstart key=a,b,c",
        )
    if options.trials is not None:
        study.require_optuna()
    plan = preflight.plan_sweep(profile, arguments, budget=options.budget, trials=options.trials)
    message_stream = sys.stderr if options.json else sys.stdout
    with _find_host(options) as host:
        lines = preflight.plan_lines(plan, host, jobs=options.jobs, budget=options.budget)
        print_lines(lines, file=message_stream)
        if options.check:
            return ExitCode.DONE
        from ida_tui.cli.output.sweep import run_sweep
        from ida_tui.util.paths import display_path

        sweep = preflight.create_sweep(
            plan, jobs=options.jobs, budget=options.budget, started_at=datetime.now()
        )
        print_lines([f"  {display_path(sweep.path)}"], file=message_stream)
        return run_sweep(sweep, host, json=options.json)


def _find_host(options: Namespace) -> AbstractContextManager[Host]:
    """Where the runs are trained: this machine, or a Ray cluster to which this process is connected."""
    if options.ray is not None:
        from ida_tui.sweep.ray_cluster import connect

        return connect(options.ray)
    from ida_tui.sweep.gpus import find_gpus
    from ida_tui.sweep.processes import LocalMachine

    return nullcontext(LocalMachine(find_gpus()))


def _parse_trials(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text[:6]) <= MAX_TRIALS:
        raise ArgumentTypeError(f"{text!r} is not a number from 1 to {MAX_TRIALS:,}")
    return int(text)


def _parse_jobs(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text[:6]) <= 64:
        raise ArgumentTypeError(f"{text!r} is not a number from 1 to 64")
    return int(text)


def _parse_dollars(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise ArgumentTypeError(f"{text!r} is not a positive amount in dollars")
    return value
