"""Picture of what a run has learned: reward curve, held-out shares, one answer before and after.

    uv run ida-tui --run smollm2-json
    uv run python screenshots/learning.py smollm2-json     # writes screenshots/smollm2-json.svg

The run's evaluation must have an axis whose scores are only 0 and 1; the last such axis is drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ida_tui.api import Run, load_run  # noqa: E402
from ida_tui.errors import UsageError  # noqa: E402
from ida_tui.runs.catalog.lookup import find_run  # noqa: E402
from ida_tui.runs.store.evaluations import (  # noqa: E402
    EvaluatedAnswer,
    Figure,
    list_evaluations,
    read_answers,
)
from ida_tui.util.format import format_duration  # noqa: E402

WIDTH, HEIGHT = 960, 430
STYLE = (
    "text{font:13px 'Fira Code','DejaVu Sans Mono',Menlo,Consolas,monospace;fill:#d8dee9}"
    ".quiet{fill:#8a94a6}.title{font-weight:bold;fill:#eceff4}"
    ".good{fill:#a3be8c}.axis{stroke:#4c566a}.before{fill:#8a94a6}.after{fill:#a3be8c}"
)


def picture(run: Run) -> str:
    """The picture as SVG.

    Raises:
        UsageError: the run has no evaluation with an axis of 0 and 1.
    """
    evaluation = run.evaluation
    figures = [f for f in evaluation.figures if f.tuned_share] if evaluation else []
    folders = list_evaluations(run.files)
    if evaluation is None or not figures or not folders or not run.state.steps:
        raise UsageError("the run has no evaluation with an axis of 0 and 1", "train smollm2-json")
    started = run.state.run
    model = started.model if started else ""
    time = format_duration(run.state.trained_seconds())
    title = f"$ ida-tui --run {run.experiment}      {model}, {len(run.state.steps)} steps, {time}"
    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#20242c"/>',
        _text(24, 34, title, "title"),
        *_curve([step.reward for step in run.state.steps], run.state.reward_name),
        *_bars(figures[-1]),
        *_answers(list(read_answers(folders[0])), figures[-1].name),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"'
        f' height="{HEIGHT}"><style>{STYLE}</style>{"".join(parts)}</svg>\n'
    )


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    kept = escape(text).replace(" ", "&#160;")
    return f'<text x="{x:.0f}" y="{y:.0f}" class="{style}" text-anchor="{anchor}">{kept}</text>'


def _curve(rewards: Sequence[float | None], name: str) -> Iterator[str]:
    """The mean reward of each step, from 0 to 1."""
    left, top, width, height = 64, 76, 470, 150
    yield _text(24, 62, f"mean reward of the training completions ({name})", "quiet")
    for level in (0, 0.5, 1):
        y = top + height * (1 - level)
        yield f'<line x1="{left}" x2="{left + width}" y1="{y}" y2="{y}" class="axis"/>'
        yield _text(left - 8, y + 4, f"{level:g}", "quiet", "end")
    count = max(1, len(rewards) - 1)
    points = [
        (left + width * number / count, top + height * (1 - min(1.0, max(0.0, reward))))
        for number, reward in enumerate(rewards)
        if reward is not None
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    yield f'<polyline points="{path}" fill="none" stroke="#88c0d0" stroke-width="2.5"/>'
    yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="#88c0d0"/>' for x, y in points)
    yield _text(left, top + height + 20, "step 1", "quiet")
    yield _text(left + width, top + height + 20, f"step {len(rewards)}", "quiet", "end")


def _bars(figure: Figure) -> Iterator[str]:
    """The shares before and after, with their 95% intervals."""
    left, width = 660, 210
    yield _text(580, 62, f"held-out answers that are {figure.name}", "quiet")
    for row, (label, share) in enumerate(
        (("before", figure.base_share), ("after", figure.tuned_share))
    ):
        if share is None:
            continue
        y = 86 + 72 * row
        low, high = left + width * share.low, left + width * share.high
        yield _text(580, y + 20, label)
        yield f'<rect x="{left}" y="{y}" width="{width}" height="28" fill="#2e3440"/>'
        yield (
            f'<rect x="{left}" y="{y}" width="{width * share.value:.1f}" height="28" class="{label}"/>'
        )
        yield (
            f'<path d="M{low:.1f},{y + 14}H{high:.1f}M{low:.1f},{y + 8}v12M{high:.1f},{y + 8}v12"'
            ' stroke="#eceff4" stroke-width="1.5"/>'
        )
        yield _text(left, y + 46, f"{100 * share.value:.0f}% ({share.hits}/{share.answers})")
    yield _text(660, 246, "lines: 95% intervals", "quiet")


def _answers(answers: Sequence[EvaluatedAnswer], axis: str) -> Iterator[str]:
    """The first prompt whose answer was wrong before and is right after, with both answers."""
    before = {a.prompt_id: a for a in answers if a.model == "base" and a.scores.get(axis) == 0}
    right = (a for a in answers if a.model == "tuned" and a.scores.get(axis) == 1)
    after = next((a for a in right if a.prompt_id in before), None)
    if after is None:
        return
    yield _text(24, 284, f"held out: {after.prompt}")
    for x, label, text, style in (
        (24, "before", before[after.prompt_id].text, "quiet"),
        (580, "after", after.text, "good"),
    ):
        yield _text(x, 310, label, "quiet")
        lines = [line for line in text.splitlines() if line.strip()][:7]
        longest = 64 if x < 500 else 44
        for row, line in enumerate(lines):
            shown = line if len(line) <= longest else f"{line[: longest - 1]}…"
            yield _text(x + 60, 310 + 17 * row, shown, style)


def main(name: str) -> None:
    """Write the picture of one run."""
    run = load_run(find_run(name, Path("outputs")).path)
    (ROOT / "screenshots" / f"{run.experiment}.svg").write_text(picture(run), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "smollm2-json")
