"""Random combinations of options: each trains two real steps, or is refused before anything is loaded.

    python -m tests.faults.options --count 300 --seed 0    # some minutes; prints a summary
    uv run pytest tests/faults/test_options.py             # some combinations, in CI

The options and their values come from the types in `ida_tui.config.schema`, so a new option is drawn without
being listed here. Case N of a seed is the same on every machine; `--only N` runs only that case. Each case
is a run of the embedded model in a fork of one process that has imported all libraries. A failed case is
printed as the shortest command that still fails.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import psutil
from pydantic import BaseModel

from ida_tui.config.resolve import resolve
from ida_tui.config.schema import Config
from tests.faults.kill import prepare

LIMIT_S = 120.0
"""Limit of a case in processor time. On a busy machine it may take four times as long by the clock."""
SKIPPED = frozenset({
    "name", "description", "output_dir", "device", "limit_gb",
    "model.name", "model.description", "model.path", "model.revision", "model.parameters", "model.shape",
    "model.context_length", "model.download_gb", "model.licence", "model.trust_remote_code",
    "judge.name", "judge.description", "judge.kind", "judge.model", "judge.base_url", "judge.api_key_env",
    "rubric.name", "rubric.description", "rubric.task", "rubric.axes", "rubric.version", "prompts",
    "training.max_steps", "training.num_train_epochs", "training.num_generations",
    "training.per_device_train_batch_size", "training.gradient_accumulation_steps",
})  # fmt: skip
"""Keys that name files, models or texts, and keys that are drawn together below."""
RANGES: Mapping[str, tuple[float, float]] = {
    "training.max_completion_length": (1, 20),
    "training.learning_rate": (1e-7, 1e-2),
    "training.temperature": (0.05, 3.0),
    "training.beta": (0, 1.0),
    "training.num_iterations": (1, 3),
    "training.steps_per_generation": (1, 8),
    "training.generation_batch_size": (2, 24),
    "training.epsilon_high": (0.1, 6),
    "training.delta": (0.9, 6),
    "training.vespo_k_pos": (0, 5),
    "training.vespo_lambda_pos": (0, 5),
    "training.vespo_k_neg": (0, 5),
    "training.vespo_lambda_neg": (0, 5),
    "training.entropy_coef": (0, 1),
    "training.entropy_coef_min": (0, 0.1),
    "training.entropy_coef_max": (0.05, 1),
    "training.entropy_coef_delta": (0, 0.1),
    "training.entropy_target": (0, 10),
    "training.off_policy_mask_threshold": (1e-6, 1),
    "training.token_budget": (1, 600),
    "training.rollout_rows": (1, 20),
    "training.top_k": (0, 5000),
    "training.warmup_steps": (0, 2),
    "training.repetition_penalty": (0.5, 2.0),
    "training.adam_epsilon": (1e-10, 1e-3),
    "training.save_steps": (0, 2),
    "training.vllm_tensor_parallel_size": (1, 2),
    "evaluation.samples": (1, 2),
    "evaluation.batch_size": (8, 70),
    "evaluation.temperature": (0, 2.0),
    "evaluation.max_completion_length": (1, 12),
    "judge.timeout_s": (10, 60),
    "judge.samples": (1, 3),
    "judge.max_unscored": (0, 1),
    "judge.max_wait_s": (0, 5),
    "judge.max_judged_chars": (1, 9000),
    "judge.max_tokens": (100, 400),
    "budget": (1, 9),
    "alerts.window": (2, 3),
    "alerts.quiet_steps": (1, 3),
    "lora.r": (1, 24),
    "lora.alpha": (1, 48),
}
"""Values that are cheap and can train; other numbers are drawn from the range of their type."""
TEXTS: Mapping[str, tuple[str, ...]] = {
    "rubric.formula": ("r_ida", "r_ida", "weakest", "align / (risk - 3)", "missing-plugin"),
    "judge.shutdown_date": ("2099-01-01", "2020-01-01", "soon"),
    "training.vllm_server_base_url": ("http://127.0.0.1:9",),
    "lora.target_modules": (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens",
        "lm_head", "nothing",
    ),
    "lora.exclude_modules": ("q_proj", "layers.0.mlp.down_proj", "embed_tokens", "nothing"),
    "lora.modules_to_save": ("model.norm", "layernorm", "v_proj", "embed_tokens", "nothing"),
    "lora.target_parameters": ("q_proj.weight", "down_proj.weight", "nothing"),
}  # fmt: skip
"""Texts that may be drawn for a key."""
MAPPINGS: Mapping[str, tuple[dict[str, Any], ...]] = {
    "lora.rank_pattern": ({}, {"q_proj": 4}, {"layers.0.*": 2, "v_proj": 6}, {"nothing": 4}),
    "lora.alpha_pattern": ({}, {"k_proj": 3}, {"mlp.*": 64}),
    "model.chat_template_kwargs": ({}, {"enable_thinking": True}, {"enable_thinking": False}),
    "training.lr_scheduler_kwargs": (
        {}, {"min_lr_rate": 0.1}, {"num_decay_steps": 1}, {"num_cycles": 1}, {"lr_end": 0},
    ),
    "training.extra": (
        {}, {"pad_to_multiple_of": 8}, {"full_determinism": False}, {"tf32": True},
        {"generation_kwargs": {"suppress_tokens": [7]}}, {"cache_implementation": "static"},
        {"router_aux_loss_coef": 0.1}, {"gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"output_dir": "here"}, {"vllm_importance_sampling_mode": "token_mask"}, {"nothing": 1},
    ),
}  # fmt: skip
"""Mappings that may be drawn for a key."""
RARE = {"training.use_vllm": 0.3, "training.fp16": 0.3, "model.attn_implementation": 0.3}
"""Probability of keeping a drawn value, for options that this machine or most combinations refuse."""
TWO_STEPS = ("evaluation.enabled=false", "report=false", "training.max_completion_length=12")


@dataclass(frozen=True)
class Option:
    """One option of the schema."""

    key: str
    annotation: Any
    bounds: tuple[Any, ...]


@dataclass(frozen=True)
class CaseResult:
    """Result of one combination."""

    outcome: Literal["ran", "refused", "failed"]
    detail: str
    """What failed, or why the combination was refused."""


def options(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[Option]:
    """Every option of the schema that may be drawn."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        if key in SKIPPED:
            continue
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from options(field.annotation, f"{key}.")
        else:
            yield Option(key, field.annotation, tuple(field.metadata))


def draw_value(rng: Random, option: Option) -> Any:
    """A random value of an option's type."""
    annotation, bounds = option.annotation, option.bounds
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        metadata = [getattr(item, "metadata", [item]) for item in arguments[1:]]
        found = tuple(bound for items in metadata for bound in items)
        return draw_value(rng, Option(option.key, arguments[0], (*bounds, *found)))
    if origin in (Union, UnionType):
        return draw_value(rng, Option(option.key, rng.choice(arguments), bounds))
    if origin is Literal:
        return rng.choice(arguments)
    if origin is list:
        texts = TEXTS.get(option.key)
        choices = get_args(arguments[0]) or texts or ("a", "b")
        return rng.sample(choices, rng.randint(0 if texts is None else 1, min(3, len(choices))))
    if origin is dict:
        return rng.choice(MAPPINGS.get(option.key, ({},)))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {
            name: draw_value(rng, Option(f"{option.key}.{name}", field.annotation, tuple(field.metadata)))
            for name, field in annotation.model_fields.items()
        }  # fmt: skip
    if annotation is NoneType:
        return None
    if annotation is bool:
        return rng.random() < 0.5
    if annotation is str:
        return rng.choice(TEXTS.get(option.key, ("text",)))
    if annotation in (int, float):
        return _draw_number(rng, option.key, annotation is int, bounds)
    raise TypeError(f"{option.key} has the type {annotation}, for which no value can be drawn")


def _draw_number(rng: Random, key: str, whole: bool, bounds: Sequence[Any]) -> float:
    """A number in the range of a key, often one of its ends."""
    low, high = RANGES.get(key, (None, None))
    for bound in bounds:
        if low is None:
            low = getattr(bound, "ge", low)
        if low is None and (above := getattr(bound, "gt", None)) is not None:
            low = above + (1 if whole else 1e-6)
        if high is None and (below := getattr(bound, "lt", None)) is not None:
            high = below - 1e-6
        if high is None and (most := getattr(bound, "le", None)) is not None:
            high = most if most < 10**9 else None
    low = 0 if low is None else low
    high = max(low + 1, 8) if high is None else high
    if whole:
        return int(rng.choice([low, high, rng.randint(int(low), int(high))]))
    if low > 0 and high / low > 100:
        middle = math.exp(rng.uniform(math.log(low), math.log(high)))
    else:
        middle = rng.uniform(low, high)
    return float(f"{rng.choice([low, high, middle, middle, middle]):.9g}")


def draw(rng: Random) -> list[str]:
    """A random combination, as overrides of the quickstart profile."""
    group, prompts = rng.choice([2, 3, 4, 6]), rng.choice([1, 2, 2, 3])
    rows = group * prompts
    batch = rng.choice([n for n in range(1, rows + 1) if rows % n == 0])
    passes = rows // batch if rng.random() < 0.93 else rng.randint(1, 6)
    overrides = [
        *TWO_STEPS,
        f"training.num_generations={group}",
        f"training.per_device_train_batch_size={batch}",
        f"training.gradient_accumulation_steps={passes}",
    ]
    if rng.random() < 0.85:
        overrides.append("training.max_steps=2")
    else:
        ids = [prompt.id for prompt in resolve("quickstart").config.prompts.train()[: 2 * prompts]]
        epochs = rng.choice([0.5, 1.0, 1.5])
        overrides += [
            "training.max_steps=null",
            f"training.num_train_epochs={epochs}",
            f"prompts.only={json.dumps(ids)}",
        ]
    overrides.append(f"engine={rng.choice(['fast', 'plain'])}")
    if rng.random() < 0.15:
        overrides += ["judge.kind=openai", "judge.model=scripted-judge", "judge.api_key_env=null"]
    # Most draws come from the sections that decide what is trained.
    known = [option for option in options() if option.key != "engine"]
    weights = [
        3 if option.key.startswith(("training.", "lora.", "evaluation.")) else 1 for option in known
    ]
    chosen = dict.fromkeys(rng.choices(known, weights, k=rng.randint(2, 14)))
    for option in chosen:
        value = draw_value(rng, option)
        if rng.random() < RARE.get(option.key, 1.0):
            overrides.append(f"{option.key}={json.dumps(value)}")
    return overrides


# --- one case ---------------------------------------------------------------------------------


def run_case(overrides: Sequence[str]) -> CaseResult:
    """Run a combination in a fork of this process, in an empty directory."""
    folder = tempfile.mkdtemp(prefix="case-", dir=Path.cwd())
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        code = 1
        try:
            os.chdir(folder)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 1)
            os.dup2(os.open("stderr.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
            os.write(writer, json.dumps(asdict(_run_here(overrides))).encode()[:60_000])
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    try:
        if not _answers_in_time(reader, child):
            os.kill(child, signal.SIGKILL)
            return CaseResult("failed", f"it has not ended after {LIMIT_S:.0f} s")
        with open(reader, "rb", closefd=False) as pipe:
            answer = pipe.read()
    finally:
        os.close(reader)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors = (Path(folder) / "stderr.txt").read_text(errors="replace")
        shutil.rmtree(folder, ignore_errors=True)
    if not answer:
        return CaseResult("failed", f"the process ended with status {status}: {errors[-500:]}")
    return CaseResult(**json.loads(answer))


def _answers_in_time(reader: int, child: int) -> bool:
    """Wait for the answer of a case; False if it exceeds the limit."""
    process, deadline = psutil.Process(child), time.monotonic() + 4 * LIMIT_S
    while not select.select([reader], [], [], 1.0)[0]:
        if time.monotonic() > deadline or sum(process.cpu_times()[:2]) > LIMIT_S:
            return False
    return True


def _run_here(overrides: Sequence[str]) -> CaseResult:
    """Run a combination in this process, in the working directory."""
    import ida_tui
    from ida_tui.errors import IdaError
    from ida_tui.events import types as ev
    from ida_tui.runs.control import send_request
    from ida_tui.runs.directory import RunDirectory
    from tests.support.judge_server import ScriptedJudge

    def resume_if_paused(record: ev.Record) -> None:
        if isinstance(record.event, ev.RunPaused):
            folder = Path("outputs/quickstart/latest").resolve()
            send_request(RunDirectory(folder), "go_on")

    with ExitStack() as stack:
        extra = []
        if "judge.kind=openai" in overrides:
            extra = [f"judge.base_url={stack.enter_context(ScriptedJudge()).base_url}"]
        try:
            run = ida_tui.run("quickstart", *overrides, *extra, on_event=resume_if_paused)
        except IdaError as error:
            text = " ".join(" ".join(error.lines()).split())
            if Path("outputs").exists() or "bug in ida-tui" in text:
                return CaseResult("failed", f"refused after the start: {text}")
            return CaseResult("refused", text)
        except Exception:
            return CaseResult("failed", traceback.format_exc()[-1500:])
    problem = _problem_of(run)
    return CaseResult("failed" if problem else "ran", problem)


def _problem_of(run: Any) -> str:
    """What is wrong with a finished run; empty if nothing is."""
    steps, ended, planned = list(run.steps), run.state.ended, run.config.planned_steps()
    if run.status == "stopped_by_alert" and run.state.alerts:
        planned = len(steps)
    elif run.exit_code != 0:
        return f"exit code {run.exit_code:d}: {ended.message} {ended.hint}"
    if [step.step for step in steps] != list(range(1, planned + 1)):
        return f"steps {[step.step for step in steps]} of {planned}"
    for step in steps:
        figures = (step.loss, step.grad_norm, step.learning_rate, step.weight_delta)
        if any(figure is None or not math.isfinite(figure) for figure in figures):
            return f"figures of step {step.step}: {figures}"
        if step.reused_step is None and not step.scored == step.completions > 0:
            return f"{step.scored} of {step.completions} completions are scored"
    has_gradient = [step for step in steps if step.grad_norm and step.learning_rate]
    if has_gradient and not steps[-1].weight_delta:
        return f"the weights did not move, with gradients {[step.grad_norm for step in steps]}"
    if run.config.evaluation.enabled and run.status == "done" and not run.state.evaluation_after:
        return "there is no evaluation after training"
    return ""


def shrink(overrides: Sequence[str]) -> tuple[list[str], CaseResult]:
    """The shortest part of a failing combination that still fails, and how."""
    kept, result = list(overrides), run_case(overrides)
    for override in reversed(overrides):
        fewer = [other for other in kept if other != override]
        smaller = run_case(fewer) if override not in TWO_STEPS else result
        if override not in TWO_STEPS and smaller.outcome == "failed":
            kept, result = fewer, smaller
    return kept, result


def command(overrides: Sequence[str]) -> str:
    """A combination as a command line."""
    return " ".join(["ida-tui --run quickstart", *(f"'{override}'" for override in overrides)])


# --- all cases --------------------------------------------------------------------------------


def warm_up() -> None:
    """Import what the runs import, before the first fork."""
    prepare()
    for name in ("matplotlib.figure", "ida_tui.api", "ida_tui.analysis.report.write", "optimi"):
        importlib.import_module(name)
    importlib.import_module("tests.support.judge_server")


def main() -> int:
    """Run the cases and print a summary; returns 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run only this case")
    parser.add_argument("--refusals", action="store_true", help="also print what was refused")
    chosen = parser.parse_args()
    numbers = range(chosen.count) if chosen.only is None else [chosen.only]
    started = time.monotonic()
    results: list[tuple[list[str], CaseResult]] = []
    with tempfile.TemporaryDirectory(prefix="ida-tui-options-") as folder:
        os.environ |= {"IDA_TUI_CACHE_DIR": f"{folder}/cache", "IDA_TUI_PROFILES": f"{folder}/own"}
        os.environ.pop("OPENAI_API_KEY", None)
        os.chdir(folder)
        warm_up()
        for number in numbers:
            overrides = draw(Random(f"{chosen.seed}:{number}"))
            results.append((overrides, run_case(overrides)))
            if len(results) % 10 == 0:
                print(f"{len(results)} of {len(numbers)}", file=sys.stderr, flush=True)
            if results[-1][1].outcome == "failed":
                fewest, failure = shrink(overrides)
                print(f"✗ case {number}: {failure.detail}\n  {command(fewest)}", flush=True)
        os.chdir("/")
    if chosen.refusals:
        refused = Counter(result.detail for _, result in results if result.outcome == "refused")
        for text, count in refused.most_common():
            print(f"{count:>4} × {text}")
    keys = {key for overrides, _ in results for key in (o.partition("=")[0] for o in overrides)}
    missing = sorted(option.key for option in options() if option.key not in keys)
    drawn = "every option was drawn" if not missing else f"not drawn: {', '.join(missing)}"
    counts = Counter(result.outcome for _, result in results)
    print(
        f"{len(results)} combinations: {counts['ran']} ran, {counts['refused']} refused,"
        f" {counts['failed']} failed ({drawn}; {time.monotonic() - started:.0f} s)"
    )
    return 1 if counts["failed"] or not counts["ran"] else 0


if __name__ == "__main__":
    sys.exit(main())
