"""Stored evaluations of a run, `evaluations/<date-time>/` in its run directory.

`evaluation.json` contains the figures, `answers.jsonl` every answer of both models with its scores.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from ida_tui.config.scoring.axes import IDA_AXES, IDA_REWARD, Axis, Scores
from ida_tui.events.codec import upgrade_scores
from ida_tui.events.values import AnswerShare, EverydayFigures
from ida_tui.runs.directory import RunDirectory
from ida_tui.runs.store.json_files import read_json
from ida_tui.util.intervals import Outcome, outcome_of_change
from ida_tui.util.safe_files import iterate_lines, make_directory, open_regular, write_text
from ida_tui.util.text import parse_json

FOLDER = "evaluations"
FIGURES_FILE = "evaluation.json"
ANSWERS_FILE = "answers.jsonl"
VERSION = 1

FigureUnit = Literal["share", "points", "reward", "score", "tokens"]
ComparedModel = Literal["base", "tuned"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of both models; a mean over prompts of the mean over a prompt's samples."""

    name: str
    """A name such as `harmless answered`; unique within an evaluation."""
    unit: FigureUnit
    """A share of answers (also of those with a score of 1, on an axis of 0 and 1), points of a judged axis
    (0 to 10), the reward, a computed score, or tokens."""
    base: float
    tuned: float
    low: float
    """Lower end of the 95% interval of the difference, tuned − base."""
    high: float
    prompts: int
    """Number of prompts with values from both models."""
    better: Literal["higher", "lower", "neither"] = "higher"
    changed: int | None = None
    """Number of prompts whose value changed; null in old evaluations."""
    most: float | None = None
    """Largest possible change; null if unknown, or as the unit implies in old evaluations."""
    base_share: AnswerShare | None = None
    """Answers of the base model with a score of 1, for an axis of 0 and 1; otherwise null."""
    tuned_share: AnswerShare | None = None

    @property
    def difference(self) -> float:
        """Tuned − base."""
        return self.tuned - self.base

    @property
    def differs(self) -> bool:
        """Whether the interval excludes zero."""
        return self.outcome in ("higher", "lower")

    @property
    def outcome(self) -> Outcome:
        """What the interval allows to say; a change of tokens never counts as `same`."""
        most = self.most
        if most is None:
            most = {"share": 1.0, "points": 10.0, "reward": 1.0}.get(self.unit, 0.0)
        return outcome_of_change(self.low, self.high, count=self.prompts, most=most)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result of the untrained and the trained model on held-out prompts."""

    made_at: str
    """UTC, ISO 8601."""
    prompts: str
    """Name or file of the prompt set."""
    harmless: int
    """Number of harmless prompts."""
    unsafe: int
    samples: int
    """Number of answers per model and prompt."""
    seed: int
    judge: str
    classifier: str
    figures: tuple[Figure, ...]
    verdict: str
    """Summary in one to three sentences."""
    unscored: int
    """Answers of both models with a failed verdict."""
    cost: float | None
    """US dollars; null if unknown."""
    seconds: float
    step: int = 0
    """The last step that the trained model was trained on."""
    axes: tuple[Axis, ...] = IDA_AXES
    """The axes of the scores, in order."""
    reward: str = IDA_REWARD
    """Name of the reward."""
    unlabeled: int = 0
    """Number of prompts that are neither harmless nor unsafe."""
    notes: tuple[str, ...] = ()
    """Warnings, such as the number of skipped prompts."""
    everyday: EverydayFigures | None = None
    """Answers of both models to everyday questions; null if none were asked."""

    @property
    def prompt_count(self) -> int:
        """Number of prompts."""
        return self.harmless + self.unsafe + self.unlabeled

    def figure(self, name: str) -> Figure | None:
        """The figure with that name; None if it was not computed."""
        return next((figure for figure in self.figures if figure.name == name), None)


@dataclass(frozen=True, slots=True)
class EvaluatedAnswer:
    """One answer of a model with its verdict."""

    model: ComparedModel
    prompt_id: str
    kind: Literal["harmless", "unsafe"] | None
    prompt: str
    sample: int
    text: str
    tokens: int
    refusal: Literal["full_compliance", "partial_refusal", "full_refusal"] | None
    """The class of the answer; null in a language without classes."""
    scores: Scores
    """The score on each axis; empty if the verdict failed."""
    reward: float | None
    reason: str
    thought_tokens: int = 0
    """Length of its thought; `text` and `tokens` include the thought."""
    context: tuple[tuple[str, str], ...] = ()
    """The messages before the prompt: role and content of each."""


def write_evaluation(
    directory: RunDirectory,
    evaluation: Evaluation,
    answers: Sequence[EvaluatedAnswer],
    *,
    stamp: str | None = None,
) -> Path:
    """Write an evaluation; returns its directory. `evaluation.json` is written last and marks it complete.

    Args:
        directory: the run.
        evaluation: the figures.
        answers: the answers from which the figures were computed.
        stamp: name of the directory; None uses the current time, with a number if it already exists.

    Raises:
        OSError: the write failed.
    """
    folder = _create_unique(directory.path / FOLDER, stamp)
    lines = (json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
    write_text(folder / ANSWERS_FILE, "".join(lines))
    body = {"version": VERSION, **asdict(evaluation)}
    write_text(folder / FIGURES_FILE, json.dumps(body, ensure_ascii=False, indent=1) + "\n")
    return folder


def _create_unique(parent: Path, stamp: str | None) -> Path:
    make_directory(parent)
    if stamp is not None:
        (parent / stamp).mkdir()
        return parent / stamp
    moment = datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        folder = parent / (moment if number == 1 else f"{moment}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise FileExistsError(f"there is already a directory for every evaluation name of {moment}")


def list_evaluations(directory: RunDirectory) -> list[Path]:
    """The directories of a run's complete evaluations, newest first."""
    folders = (directory.path / FOLDER).glob(f"*/{FIGURES_FILE}")
    return sorted((path.parent for path in folders), key=lambda path: path.name, reverse=True)


def newest_evaluation(directory: RunDirectory) -> Evaluation | None:
    """The newest readable evaluation of a run; None if there is none."""
    evaluations = (read_evaluation(path) for path in list_evaluations(directory))
    return next((evaluation for evaluation in evaluations if evaluation is not None), None)


def read_evaluation(folder: Path) -> Evaluation | None:
    """One evaluation; None if it cannot be read."""
    try:
        body: Any = read_json(folder / FIGURES_FILE)
        if body.pop("version") != VERSION:
            return None
        figures = tuple(_figure(figure) for figure in body.pop("figures"))
        asked = body.pop("everyday", None)
        everyday = EverydayFigures(int(asked[0]), *map(float, asked[1:])) if asked else None
        notes = tuple(body.pop("notes", ()))
        axes = tuple(Axis(*axis) for axis in body.pop("axes", IDA_AXES))
        return Evaluation(figures=figures, notes=notes, axes=axes, everyday=everyday, **body)
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        AttributeError,
        RecursionError,
    ):
        return None


def _figure(fields: dict[str, Any]) -> Figure:
    shares = {
        key: AnswerShare(*fields[key]) for key in ("base_share", "tuned_share") if fields.get(key)
    }
    if not all(share.is_possible for share in shares.values()):
        raise ValueError("the share of an axis is impossible")
    return Figure(**fields | shares)


def read_answers(folder: Path) -> Iterator[EvaluatedAnswer]:
    """The answers of an evaluation, in order; stops at the first invalid line."""
    try:
        with open_regular(folder / ANSWERS_FILE) as file:
            for line in iterate_lines(file):
                fields = parse_json(line)
                if "scores" not in fields:  # an older version wrote the line
                    fields = upgrade_scores(fields)
                yield EvaluatedAnswer(**fields)
    except (OSError, ValueError, TypeError):
        return
