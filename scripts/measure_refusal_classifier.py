"""Accuracy of the refusal classifier on XSTest's answers, which people labeled.

    uv run python scripts/measure_refusal_classifier.py xstest_v2_completions_*.csv

Each file holds the answers of one model, with the columns `completion` and `final_label` (1_full_compliance,
2_full_refusal, 3_partial_refusal). They are in the folder model_completions of XSTest's repository,
github.com/paul-rottger/exaggerated-safety (CC BY 4.0). Nothing is trained on them.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import get_args

from ida_tui.judge.backends.offline.refusal import RefusalClass
from ida_tui.judge.calibration.check_text import group_lines
from ida_tui.judge.calibration.labeled import measure_group


def main(paths: list[str]) -> int:
    """Print one line for each file; returns the exit status."""
    if not paths:
        print(__doc__)
        return 2
    groups = []
    for path in paths:
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        labeled = [(row["completion"], row["final_label"].partition("_")[2]) for row in rows]
        answers = [(text, label) for text, label in labeled if label in get_args(RefusalClass)]
        groups.append(measure_group(Path(path).stem[-29:], [[answer] for answer in answers]))
    print("\n".join(group_lines("answers of a model", groups)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
