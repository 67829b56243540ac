"""Targets of hostile input: each function runs one case and returns True if the input was accepted.

A case raises an exception for any defect: an exception that is not a typed error of the program, a character
that a terminal interprets, or an invented score.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.faults.targets import data_files, judges, profiles, reward_results, runs

TARGETS: dict[str, tuple[Callable[[Random], bool], float]] = {
    "profiles": (profiles.profile, 0.14),
    "command lines": (profiles.override, 0.06),
    "event lines": (runs.event, 0.28),
    "runs": (runs.run_of_lines, 0.02),
    "completions": (runs.completions, 0.05),
    "judge answers": (judges.answer, 0.20),
    "judge exchanges": (judges.exchange, 0.10),
    "verdict caches": (judges.cache, 0.01),
    "small files": (runs.small_file, 0.04),
    "reward results": (reward_results.reward_result, 0.1),
    "data files": (data_files.data_file, 0.10),
}
"""Function and share of all cases for each kind of input."""
