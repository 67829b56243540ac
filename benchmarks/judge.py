"""Benchmark of the judge: throughput, tokens, overload, cache, wait, and the effect of jitter on advantages.

    uv run python benchmarks/judge.py            # about ten minutes
    uv run python benchmarks/judge.py --quick    # under four minutes
    uv run python benchmarks/judge.py --json judge.json

The judge is a scripted server on the loopback interface: real HTTP, known latency. The last line compares the
figures with their goals; the exit status is 1 if a goal is missed.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.goals import Goal, build_parser, run_benchmark  # noqa: E402
from ida_tui.config import embedded  # noqa: E402
from ida_tui.config.resolve import resolve  # noqa: E402
from ida_tui.config.schema import JudgeConfig, Prompt  # noqa: E402
from ida_tui.config.scoring.axes import IDA_AXIS_NAMES  # noqa: E402
from ida_tui.events import codec  # noqa: E402
from ida_tui.events import types as ev  # noqa: E402
from ida_tui.events.judge_wait import judge_wait  # noqa: E402
from ida_tui.events.state import RunState, fold_all  # noqa: E402
from ida_tui.judge.backends.offline.heuristic import OfflineScorer  # noqa: E402
from ida_tui.judge.backends.openai.group import group_labels, render_group_messages  # noqa: E402
from ida_tui.judge.backends.openai.prompt import render_messages  # noqa: E402
from ida_tui.judge.service import JudgeService, JudgeServiceOptions  # noqa: E402
from ida_tui.judge.verdict import JudgeRequest  # noqa: E402
from ida_tui.rewards.r_ida import r_ida  # noqa: E402
from tests.support.judge_server import Behavior, Judge, ScriptedJudge, Status, completion_in  # noqa: E402

CONFIG = resolve("quickstart").config
COMPLETIONS, SLOTS, LATENCY_S = 64, 16, 1.0
REASON = (
    "It answers the question in the title with concrete steps, names the command and its options, and adds"
    " no warning that readers do not need."
)
"""A reason of 25 words; a verdict has the first ones, as many as the request allows."""
SCALES = ("group", "batch", "none")
JITTER = 0.5
"""Size of the jitter, in points: a score changes by -0.5, 0 or +0.5 with equal probability."""


def main() -> int:
    """Run the benchmark; returns the exit status."""
    options = build_parser(__doc__).parse_args()
    return run_benchmark(
        "judge",
        [
            lambda: measure_throughput(2 if options.quick else 5),
            measure_tokens,
            measure_overload,
            measure_cache,
            lambda: measure_wait(6 if options.quick else 10),
            measure_jitter,
            *([] if options.quick else [measure_learning]),
        ],
        options.json,
    )


# --- speed --------------------------------------------------------------------------------------


def measure_throughput(repeats: int) -> tuple[list[Goal], dict[str, Any]]:
    """Score 64 completions with 16 slots on a server that takes a second: ideally 4 s.

    Every server is new: nothing is known of it in the first batch, and what it accepts in the second.
    """
    ideal = COMPLETIONS / SLOTS * LATENCY_S
    seconds: dict[str, list[float]] = {"unknown server": [], "known server": []}
    for _ in range(repeats):
        with ScriptedJudge(delay_s=LATENCY_S) as judge, tempfile.TemporaryDirectory() as folder:
            for about, measured in seconds.items():
                with _service(judge, folder=Path(folder), cache=True, concurrency=SLOTS) as service:
                    service.probe_endpoint().result()  # as a run does before its first step
                    verdicts, stats = service.score_batch(_questions(about))
                assert all(v.reward is not None for v in verdicts)
                measured.append(stats.seconds)
            assert judge.max_open_calls == SLOTS
            assert judge.calls == 2 * COMPLETIONS
    for about, measured in seconds.items():
        print(
            f"throughput: {COMPLETIONS} completions at 1 s and {SLOTS} slots in {max(measured):.2f} s"
            f" (worst of {repeats}, {about})"
        )
    goals = [
        Goal(f"64 completions / ideal 4 s, {about}", max(measured) / ideal, 1.15, "×")
        for about, measured in seconds.items()
    ]
    return goals, {"throughput_s": seconds}


def measure_tokens() -> tuple[list[Goal], dict[str, Any]]:
    """What the groups of a recorded quickstart cost in both modes, with reasons as long as allowed.

    The tokens are those of the embedded model's tokenizer for the texts that are sent and a typical reply.
    """
    totals = {"absolute": 0, "group": 0}
    groups = list(_recorded_groups())
    for prompt, completions in groups:
        for mode in totals:
            totals[mode] += _call_tokens(mode, prompt, completions)
    size = len(groups[0][1])
    share = totals["group"] / totals["absolute"]
    calls = sum(len(completions) for _, completions in groups)
    print(
        f"tokens: {len(groups)} groups of {size} cost {totals['absolute'] / len(groups):,.0f} tokens each"
        f" in {calls / len(groups):.0f} calls, and {totals['group'] / len(groups):,.0f} in one"
    )
    return [Goal("tokens of group mode / of a call each", share, 0.25)], {"tokens": totals}


def measure_overload() -> tuple[list[Goal], dict[str, Any]]:
    """Score 64 completions on a server that rejects calls while four are open."""
    allowed, open_calls, lock = 4, [0], threading.Lock()

    class Limited(ScriptedJudge):
        def leave(self) -> None:
            super().leave()
            with lock:
                open_calls[0] -= 1

    def rule(body: Mapping[str, Any]) -> Behavior | None:
        with lock:
            open_calls[0] += 1
            return Status(429) if open_calls[0] > allowed else None

    with Limited(rule=rule, delay_s=0.1) as judge, _service(judge, concurrency=SLOTS) as service:
        verdicts, stats = service.score_batch(_questions("limited"))
        slots = service.slots
    scored = sum(v.reward is not None for v in verdicts)
    ideal = COMPLETIONS / allowed * 0.1
    print(
        f"overload: {scored}/{COMPLETIONS} scored by a server that takes {allowed} calls at a time, in"
        f" {stats.seconds:.1f} s (ideal {ideal:.1f} s), {stats.retries} retries, {slots} slots at the end"
    )
    share = 1 - scored / COMPLETIONS
    return [Goal("unscored under overload", share, 0.25)], {
        "limited": {"s": stats.seconds, "retries": stats.retries}
    }


def measure_cache() -> tuple[list[Goal], dict[str, Any]]:
    """Score the same 64 completions twice; the second time from the cache on disk."""
    with ScriptedJudge() as judge, tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            with _service(judge, folder=Path(folder), cache=True) as service:
                _, stats = service.score_batch(_questions("kept"))
    each = stats.seconds / COMPLETIONS * 1000
    print(f"cache: {stats.cached} verdicts from disk, {each:.2f} ms each")
    return [Goal("a cached verdict", each, 5.0, " ms")], {"cached_ms": each}


def measure_wait(steps: int) -> tuple[list[Goal], dict[str, Any]]:
    """Real runs with calls of 0.2 s: the wait for the judge, beside what half the slots predicted."""
    waits: dict[int, float] = {}
    busy: dict[int, float] = {}
    predicted: dict[int, float] = {}
    step_s: dict[int, float] = {}
    for slots in (2, 4, 8):
        with ScriptedJudge(delay_s=0.2) as judge:
            state = _run(judge, steps=steps, evaluate=False, slots=slots)
        waits[slots] = statistics.fmean(batch.exposed_s for batch in state.judge.recent)
        busy[slots] = statistics.fmean(batch.seconds for batch in state.judge.recent)
        step_s[slots] = statistics.fmean(sum(step.seconds.values()) for step in state.steps)
        wait = judge_wait(state)
        saved = wait.remedy.saved_s if wait is not None and wait.remedy is not None else None
        predicted[2 * slots] = waits[slots] - (saved or 0.0)
        print(
            f"wait: {slots} slots, {waits[slots]:.2f} s of a step"
            + (f" (predicted {predicted[slots]:.2f} s)" if slots in predicted else "")
            + (f"; {wait.short_text}" if wait is not None else "")
        )
    error = max(abs(predicted[n] - waits[n]) / step_s[n] for n in (4, 8))
    return [
        Goal("error of a predicted wait / the step", error, 0.10),
        Goal("exposed / busy at 8 slots", waits[8] / busy[8], 1.0),
    ], {"wait_s": waits, "predicted_wait_s": predicted, "busy_s": busy, "step_s": step_s}


# --- jitter -------------------------------------------------------------------------------------


def measure_jitter() -> tuple[list[Goal], dict[str, Any]]:
    """Effect of ± half a point on the advantages of 320 recorded groups, by `scale_rewards`."""
    steps = list(_recorded_scores())
    rng = random.Random(0)
    figures: dict[str, tuple[float, float]] = {}
    for scale in SCALES:
        clean_all, noisy_all, flat, varied = [], [], [], []
        for step in steps:
            clean = _advantages([[r_ida(*s) for s in group] for group in step], scale)
            noisy = _advantages(
                [[r_ida(*_add_jitter(s, rng)) for s in group] for group in step], scale
            )
            for group, before, after in zip(step, clean, noisy, strict=True):
                rewards = [r_ida(*s) for s in group]
                # A group whose rewards differ by less than the jitter has no learning signal.
                (flat if max(rewards) - min(rewards) < 0.05 else varied).extend(map(abs, after))
                clean_all += before
                noisy_all += after
        correlation = statistics.correlation(clean_all, noisy_all)
        figures[scale] = (correlation, statistics.fmean(flat) / statistics.fmean(varied))
    print(f"jitter of ± {JITTER} points, on {sum(map(len, steps))} groups of a recorded run:")
    for scale, (correlation, noise) in figures.items():
        print(
            f"  scale_rewards={scale:<6} correlation with advantages without jitter r = {correlation:.3f};"
            f" groups without a signal have {noise:.0%} of the others' mean advantage"
        )
    gain = figures["batch"][1] / figures["group"][1]
    return [Goal("noise of batch / of group scaling", gain, 0.5, "×")], {"jitter": figures}


def measure_learning() -> tuple[list[Goal], dict[str, Any]]:
    """Runs against a judge with jitter, by `scale_rewards`; the offline classifier measures the result."""
    results: dict[str, list[dict[str, float]]] = {}
    for seed in (0, 1):
        for scale in SCALES:
            with ScriptedJudge(rule=_jitter_rule(seed)) as judge:
                after = _run(
                    judge, steps=40, evaluate=True, scale=scale, seed=seed
                ).evaluation_after
            assert after is not None
            results.setdefault(scale, []).append(
                {
                    "answered": after.harmless_complied / after.harmless,
                    "declined": after.unsafe_refused / after.unsafe,
                }
            )
    print(
        f"learning, 40 steps against a judge with a jitter of ± {JITTER} points, held-out prompts:"
    )
    for scale, runs in results.items():
        answered = " ".join(f"{run['answered']:.0%}" for run in runs)
        declined = " ".join(f"{run['declined']:.0%}" for run in runs)
        print(
            f"  scale_rewards={scale:<6} harmless answered {answered}, unsafe declined {declined}"
        )
    return [], {"learning": results}


def _recorded_scores() -> Iterator[list[list[tuple[float, float, float]]]]:
    """Scores of every step of the recorded quickstart, by group."""
    groups: dict[int, dict[int, list[tuple[float, float, float]]]] = {}
    for event in _recorded_events():
        if isinstance(event, ev.CompletionScored) and event.failure is None:
            align, risk, detail = (event.scores[axis] for axis in IDA_AXIS_NAMES)
            assert align is not None
            assert risk is not None
            assert detail is not None
            scores = (align, risk, detail)
            groups.setdefault(event.step, {}).setdefault(event.group, []).append(scores)
    for step in sorted(groups):
        yield list(groups[step].values())


def _add_jitter(scores: Sequence[float], rng: random.Random) -> list[float]:
    return [min(10.0, max(0.0, s + rng.choice((-JITTER, 0.0, JITTER)))) for s in scores]


def _advantages(groups: Sequence[Sequence[float]], scale: str) -> list[list[float]]:
    """TRL's advantages: rewards minus their group's mean, over the standard deviation of group or batch."""
    centered = [[r - statistics.fmean(group) for r in group] for group in groups]
    if scale == "none":
        return centered
    batch_std = statistics.stdev([r for group in groups for r in group])
    return [
        [c / ((statistics.stdev(group) if scale == "group" else batch_std) + 1e-4) for c in row]
        for group, row in zip(groups, centered, strict=True)
    ]


def _jitter_rule(seed: int) -> Any:
    """Rule of a scripted server: the offline heuristic's scores with jitter."""
    prompts = {prompt.text: prompt for prompt in CONFIG.prompts.prompts}
    scorer = OfflineScorer(list(prompts))
    rng, lock = random.Random(seed), threading.Lock()

    def rule(body: Mapping[str, Any]) -> Behavior:
        user = str(body["messages"][-1]["content"])
        prompt: Prompt = next(
            p for text, p in prompts.items() if json.dumps(text, ensure_ascii=False) in user
        )
        score = scorer.score(prompt.text, prompt.kind, completion_in(body))
        with lock:
            return Judge(*_add_jitter((score.align, score.risk, score.detail), rng))

    return rule


# --- helpers ------------------------------------------------------------------------------------


def _service(judge: ScriptedJudge, *, folder: Path | None = None, **changes: Any) -> JudgeService:
    fields: dict[str, Any] = {
        "kind": "openai",
        "model": "scripted",
        "base_url": judge.base_url,
        "cache": False,
    }
    return JudgeService(
        JudgeConfig(**fields | changes),
        CONFIG.rubric,
        CONFIG.prompts,
        key=None,
        options=JudgeServiceOptions(cache_dir=folder),
    )


def _questions(about: str) -> list[JudgeRequest]:
    prompt = CONFIG.prompts.prompts[0]
    return [
        JudgeRequest(prompt.id, prompt.text, prompt.kind, f"{about}: this is the answer number {n}")
        for n in range(COMPLETIONS)
    ]


def _recorded_events() -> Iterator[ev.Event]:
    """The events of the recorded quickstart."""
    path = ROOT / "screenshots" / "quickstart.events.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield codec.decode(line).event


def _recorded_groups() -> Iterator[tuple[str, list[str]]]:
    """Prompt and completions of every group of the recorded quickstart."""
    groups: dict[tuple[int, int], tuple[str, list[str]]] = {}
    for event in _recorded_events():
        if isinstance(event, ev.CompletionFinished):
            groups.setdefault((event.step, event.group), (event.prompt, []))[1].append(event.text)
    yield from groups.values()


def _call_tokens(mode: str, prompt: str, completions: Sequence[str]) -> int:
    """Tokens of the requests and replies that score a group; the schema counts as part of a request."""
    options: dict[str, Any] = {"nonce": "0123456789abcdef", "max_chars": 8000}
    if mode == "group":
        labels = group_labels(len(completions))
        requests = [render_group_messages(CONFIG.rubric, prompt, completions, **options)]
        verdicts = dict.fromkeys(labels, _longest_verdict(requests[0].system))
        texts = [json.dumps({"ranking": labels, "verdicts": verdicts})]
    else:
        requests = [render_messages(CONFIG.rubric, prompt, text, **options) for text in completions]
        texts = [json.dumps(_longest_verdict(request.system)) for request in requests]
    texts += [text for messages in requests for text in (messages.system, messages.user)]
    return sum(map(_count_tokens, texts))


def _longest_verdict(system: str) -> dict[str, Any]:
    """A verdict whose reason has as many words as a system message allows."""
    [words] = re.findall(r"at most (\d+) words", system)
    reason = " ".join(REASON.split()[: int(words)])
    return {**dict.fromkeys(CONFIG.rubric.judged_axes, 7.5), "reason": reason}


@functools.cache
def _count_tokens(text: str) -> int:
    return len(_tokenizer().encode(text).ids)


@functools.cache
def _tokenizer() -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(embedded.model_folder() / "tokenizer.json"))


def _run(
    judge: ScriptedJudge,
    *,
    steps: int,
    evaluate: bool,
    scale: str = "batch",
    seed: int = 0,
    slots: int = SLOTS,
) -> RunState:
    """The state of a quickstart against this judge, run in a separate process."""
    process = subprocess.run(
        [
            *(sys.executable, "-m", "ida_tui", "--run", "quickstart", "--json"),
            *(
                "judge=gpt-4o-mini",
                f"judge.base_url={judge.base_url}",
                f"judge.concurrency={slots}",
            ),
            *("judge.cache=false", "judge.anchor_every=0", f"training.max_steps={steps}"),
            *(f"training.scale_rewards={scale}", f"seed={seed}"),
            f"evaluation.enabled={'true' if evaluate else 'false'}",
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    return fold_all(map(codec.decode, process.stdout.splitlines()))


if __name__ == "__main__":
    sys.exit(main())
