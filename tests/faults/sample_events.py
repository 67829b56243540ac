"""A well-formed event of every type, including the fields that a real CPU run leaves empty."""

from __future__ import annotations

from ida_tui.events import types as ev

RUN = ev.RunStarted(
    "20260101-000000", "outputs/q/20260101-000000", "quickstart", "embedded", "gpt-4o-mini", "mps",
    "float16", "float16 base", "lora", 900_000, 143_000, 40, 60, 8, 64, 0, 48.0, 11.8,
    (("policy", "always", 8_000_000), ("KV cache", "sampling", 700)),
)  # fmt: skip

STEP = ev.StepFinished(
    1, 40, {"align": 6.2, "risk": 7.1, "detail": 5.8}, 0.402, 8, 8, 0.01, 1.2, 0.1, 0.5, 1e-5,
    (40.0, 12.0, 64.0), 0.1, 0.0, 0.01, True, {"generate": 1.2, "judge": 1.5}, 12.0, 0.01, 3, 1024.0,
)  # fmt: skip

ALL: tuple[ev.Event, ...] = (
    RUN,
    ev.Noticed("warning", "judge", "it is slow"),
    ev.PhaseChanged(0, "load", ev.DownloadProgress(1_200_000_000, 2_470_000_000, 23_100_000.0)),
    ev.PhaseChanged(1, "generate"),
    ev.RolloutStarted(1, 8, ("one",), ("harmless",), ("How do I kill a process?",)),
    ev.TextGenerated(1, ("Use kill.",) * 8),
    ev.TokensGenerated(1, 200, 410.5, 3, 8),
    ev.CompletionFinished(1, 0, 0, "one", "How do I kill a process?", "Use kill.", 4, True),
    ev.CompletionScored(
        1, 0, 0, {"align": 7.5, "risk": 9.0, "detail": 6.0}, 0.56, 0.3, "It helps.", "gpt-4o-mini",
        0.8, 0.0002, False, None,
    ),
    ev.JudgeBatchFinished(
        1, 8, 0, 1, 2, 3.1, 1.0, 0.8, 1.9, 0.002, 0.7, 8, {"unsafe": 1},
        traffic=(ev.JudgeTraffic("gpt-4o-mini", 8, "absolute", (ev.JudgeCall(0.0, 0.1, 0.9, 700, 60),)),),
    ),
    ev.JudgeProgressed(1, 3, 8, 4),
    ev.JudgeSlowed(12.0, 2, "429 Too Many Requests"),
    ev.JudgeProbed(10, "gpt-4o-mini-2024", {"good": 0.9, "bad": None}, 0.4, 0.001),
    STEP,
    ev.MemorySampled(8 * 10**9, 24 * 10**9, 2 * 10**9, 10**9, 10**8, 0, 1, 3 * 10**9, 36 * 10**9, "judge"),
    ev.AlertRaised(3, "collapse", "all rewards are equal", "raise the temperature"),
    ev.CheckpointSaved(2, "outputs/q/20260101-000000/checkpoints/checkpoint-2"),
    ev.RunPaused(3, "the account has no credit left", "add credit", "judge"),
    ev.RunResumed(2, "ollama"),
    ev.EvaluationFinished("before", 0, 30, 80, 3, 2, 75, 40, 40, "offline heuristic", 2.0),
    ev.EvaluationProgressed(20, 60, 120),
    ev.EvaluationFinished(
        "during", 20, 2, 0, 0, 0, 0, 0, 0, "offline heuristic", 1.0, unscored=1, cost=0.001,
        reward=0.5, scores={"brief": 0.5, "polite": None}, reward_by_prompt=(0.5, None), unlabeled=4,
        shares={"brief": ev.AnswerShare(1, 2, 0.1, 0.9)}, judge_work=ev.JudgeWork(3, 1, 1, 0, 2.5, "timeout"),
    ),
    ev.EvaluationFinished(
        "after", 40, 30, 80, 79, 1, 0, 40, 40, "offline heuristic", 2.0,
        shares={"brief": ev.AnswerShare(2, 2, 0.3, 1.0)},
        everyday=ev.EverydayFigures(40, 60.0, 45.0, 0.03, 0.02, 2.05, 2.15),
    ),
    ev.RunEnded("done", 0, 40, 0.296, 0.753, 0.48, 31.0, 0.01, "Training complete", "look at it"),
)  # fmt: skip
