"""Benchmark of the judge: throughput, overload, cache, overlap, and the effect of jitter on advantages.

    uv run python benchmarks/judge.py            # about eight minutes
    uv run python benchmarks/judge.py --quick    # under two minutes
    uv run python benchmarks/judge.py --json judge.json

The judge is a scripted server on the loopback interface: real HTTP, known latency. The last line compares the
figures with their goals; the exit status is 1 if a goal is missed.
"""

from __future__ import annotations

import gzip
import json
import os
import random
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
from ida_tui.config.resolve import resolve  # noqa: E402
from ida_tui.config.schema import JudgeConfig, Prompt  # noqa: E402
from ida_tui.config.scoring.axes import IDA_AXIS_NAMES  # noqa: E402
from ida_tui.events import codec  # noqa: E402
from ida_tui.events import types as ev  # noqa: E402
from ida_tui.judge.backends.offline.heuristic import OfflineScorer  # noqa: E402
from ida_tui.judge.service import JudgeService, JudgeServiceOptions  # noqa: E402
from ida_tui.judge.verdict import JudgeRequest  # noqa: E402
from ida_tui.rewards.r_ida import r_ida  # noqa: E402
from tests.support.judge_server import Behavior, Judge, ScriptedJudge, Status, completion_in  # noqa: E402

CONFIG = resolve("quickstart").config
COMPLETIONS, SLOTS, LATENCY_S = 64, 16, 1.0
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
            measure_overload,
            measure_cache,
            measure_overlap,
            measure_jitter,
            *([] if options.quick else [measure_learning]),
        ],
        options.json,
    )


# --- speed --------------------------------------------------------------------------------------


def measure_throughput(repeats: int) -> tuple[list[Goal], dict[str, Any]]:
    """Score 64 completions with 16 slots on a server that takes a second: ideally 4 s."""
    ideal = COMPLETIONS / SLOTS * LATENCY_S
    seconds = []
    with ScriptedJudge(delay_s=LATENCY_S) as judge:
        for number in range(repeats):
            with _service(judge, concurrency=SLOTS) as service:
                service.probe_endpoint().result()  # as a run does before its first step
                verdicts, stats = service.score_batch(_questions(f"round {number}"))
                assert all(v.reward is not None for v in verdicts)
                seconds.append(stats.seconds)
        assert judge.max_open_calls == SLOTS
    worst = max(seconds)
    print(
        f"throughput: {COMPLETIONS} completions at 1 s and {SLOTS} slots in {worst:.2f} s"
        f" (worst of {repeats})"
    )
    return [Goal("64 completions / ideal 4 s", worst / ideal, 1.25, "×")], {"throughput_s": seconds}


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


def measure_overlap() -> tuple[list[Goal], dict[str, Any]]:
    """A real run: the judge's busy time, and the part of it that the trainer waits for."""
    with ScriptedJudge(delay_s=0.2) as judge:
        events = _run(judge, steps=10, evaluate=False)
    batches = [e for e in events if e["type"] == "JudgeBatchFinished"]
    busy = statistics.fmean(b["seconds"] for b in batches)
    exposed = statistics.fmean(b["exposed_s"] for b in batches)
    print(
        f"overlap: the judge is busy for {busy:.2f} s per step; the trainer waits for {exposed:.2f} s of it"
    )
    return [Goal("exposed / busy", exposed / busy, 1.0)], {"busy_s": busy, "exposed_s": exposed}


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
                events = _run(judge, steps=40, evaluate=True, scale=scale, seed=seed)
            after = next(
                e for e in events if e["type"] == "EvaluationFinished" and e["when"] == "after"
            )
            results.setdefault(scale, []).append(
                {
                    "answered": after["harmless_complied"] / after["harmless"],
                    "declined": after["unsafe_refused"] / after["unsafe"],
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
    with gzip.open(
        ROOT / "screenshots" / "quickstart.events.jsonl.gz", "rt", encoding="utf-8"
    ) as file:
        for line in file:
            event = codec.decode(line).event
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


def _run(
    judge: ScriptedJudge, *, steps: int, evaluate: bool, scale: str = "batch", seed: int = 0
) -> list[dict[str, Any]]:
    """Events of a quickstart against this judge, run in a separate process."""
    process = subprocess.run(
        [
            *(sys.executable, "-m", "ida_tui", "--run", "quickstart", "--json"),
            *("judge=gpt-4o-mini", f"judge.base_url={judge.base_url}", "judge.concurrency=16"),
            *("judge.cache=false", "judge.anchor_every=0", f"training.max_steps={steps}"),
            *(f"training.scale_rewards={scale}", f"seed={seed}"),
            f"evaluation.enabled={'true' if evaluate else 'false'}",
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    return [json.loads(line) for line in process.stdout.splitlines()]


if __name__ == "__main__":
    sys.exit(main())
