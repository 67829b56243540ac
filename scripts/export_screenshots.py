"""Draw what a person sees, from the events of a real run, as SVG files in `screenshots/`.

uv run ida-tui --run quickstart
uv run python scripts/export_screenshots.py outputs/quickstart/latest
"""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from ida_tui import events as ev
from ida_tui import narration
from ida_tui.headless.printer import styled
from ida_tui.resolve import resolve
from ida_tui.runs.reader import read_events
from ida_tui.state import RunState, fold

WIDTH = 88
STEPS_SHOWN = 2
"""Steps at the start and at the end; those between are left out, and said to be."""


def transcript(run: Path) -> list[str]:
    """The lines that the run printed, without the steps in the middle."""
    config = resolve(str(run / "config.yaml")).config
    state, printed, steps = RunState(), [narration.config_loaded(config)], 0
    for record in read_events(run / "events.jsonl"):
        state = fold(state, record)
        spoken = narration.lines(state, record.event)
        total = state.run.steps if state.run else 0
        if isinstance(record.event, ev.JudgeBatchFinished):
            steps += 1
        in_the_middle = STEPS_SHOWN < steps <= total - STEPS_SHOWN
        if isinstance(record.event, ev.JudgeBatchFinished | ev.StepFinished) and in_the_middle:
            if steps == STEPS_SHOWN + 1 and isinstance(record.event, ev.StepFinished):
                printed.append(f"   … {total - 2 * STEPS_SHOWN} steps later …")
            continue
        printed += spoken
    return printed


def main(run: Path) -> None:
    """Write `screenshots/quickstart.svg` and print the same lines."""
    console = Console(record=True, width=WIDTH, highlight=False)
    for line in ["$ uv run ida-tui --run quickstart", *transcript(run)]:
        console.print(styled(line))
    Path("screenshots").mkdir(exist_ok=True)
    console.save_svg("screenshots/quickstart.svg", title="ida-tui --run quickstart")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
