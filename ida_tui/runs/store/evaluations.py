"""Evaluations of a run, as they are kept: ``evaluations/<date-time>/`` in its directory.

``evaluation.json`` has the figures, ``answers.jsonl`` every answer of both models with its scores.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from ida_tui.runs.directory import RunDirectory

FOLDER = "evaluations"
FIGURES = "evaluation.json"
ANSWERS = "answers.jsonl"
VERSION = 1

Unit = Literal["share", "points", "reward", "tokens"]
Model = Literal["base", "tuned"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of both models; means over prompts of the means over their samples."""

    name: str
    """Such as ``harmless answered``; unique within an evaluation."""
    unit: Unit
    """A share of answers, points of an axis (0 to 10), R_IDA (0 to 1), or tokens."""
    base: float
    tuned: float
    low: float
    """Lower end of the 95 % interval of the difference, tuned − base."""
    high: float
    prompts: int
    """Pairs that it was computed from."""
    better: Literal["higher", "lower", "neither"] = "higher"

    @property
    def difference(self) -> float:
        """Tuned − base."""
        return self.tuned - self.base

    @property
    def differs(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The untrained and the trained model on prompts that were never trained on."""

    made_at: str
    """UTC, ISO 8601."""
    prompts: str
    """Name of the set, or the file that it came from."""
    harmless: int
    """Harmless prompts in it."""
    unsafe: int
    samples: int
    """Answers of each model to each prompt."""
    seed: int
    judge: str
    classifier: str
    figures: tuple[Figure, ...]
    verdict: str
    """What it means, in a plain sentence."""
    unscored: int
    """Answers that the judge gave no verdict on, of both models."""
    cost: float | None
    """US dollars; null where it is not known."""
    seconds: float
    step: int = 0
    """The last step that the trained model has learnt from."""
    notes: tuple[str, ...] = ()
    """What a reader should know, such as how many prompts were left out."""

    def figure(self, name: str) -> Figure | None:
        """The figure of that name; None where it was not computed."""
        return next((figure for figure in self.figures if figure.name == name), None)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, with its verdict."""

    model: Model
    prompt_id: str
    kind: Literal["harmless", "unsafe"]
    prompt: str
    sample: int
    text: str
    tokens: int
    refusal: Literal["full_compliance", "partial_refusal", "full_refusal"]
    align: float | None
    risk: float | None
    detail: float | None
    r_ida: float | None
    reason: str


def write(
    directory: RunDirectory,
    evaluation: Evaluation,
    answers: Sequence[Answer],
    *,
    stamp: str | None = None,
) -> Path:
    """Keep an evaluation; returns its folder. The figures are written last: without them it is unfinished.

    Args:
        directory: the run.
        evaluation: the figures.
        answers: what they were computed from.
        stamp: name of the folder; None takes the moment, and a number where it is taken.

    Raises:
        OSError: the disk refused it.
    """
    folder = _fresh(directory.path / FOLDER, stamp)
    with open(folder / ANSWERS, "w", encoding="utf-8") as file:
        for answer in answers:
            file.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")
    body = {"version": VERSION, **asdict(evaluation)}
    beside = folder / f".{FIGURES}"
    beside.write_text(json.dumps(body, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    beside.replace(folder / FIGURES)
    return folder


def _fresh(parent: Path, stamp: str | None) -> Path:
    parent.mkdir(exist_ok=True)
    if stamp is not None:
        (parent / stamp).mkdir()
        return parent / stamp
    moment = datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        folder = parent / (moment if number == 1 else f"{moment}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise FileExistsError(f"a thousand evaluations named {moment}")


def found(directory: RunDirectory) -> list[Path]:
    """The folders of a run's finished evaluations, newest first."""
    folders = (directory.path / FOLDER).glob(f"*/{FIGURES}")
    return sorted((path.parent for path in folders), key=lambda path: path.name, reverse=True)


def newest(directory: RunDirectory) -> Evaluation | None:
    """The newest evaluation of a run that can be read; None where there is none."""
    return next((one for path in found(directory) if (one := read(path)) is not None), None)


def read(folder: Path) -> Evaluation | None:
    """One evaluation; None where it cannot be read."""
    try:
        body: dict[str, Any] = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
        if body.pop("version") != VERSION:
            return None
        figures = tuple(Figure(**figure) for figure in body.pop("figures"))
        notes = tuple(body.pop("notes", ()))
        return Evaluation(figures=figures, notes=notes, **body)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def answers(folder: Path) -> Iterator[Answer]:
    """Every answer of an evaluation, in order; a line that is none ends it."""
    try:
        with open(folder / ANSWERS, encoding="utf-8") as file:
            for line in file:
                yield Answer(**json.loads(line))
    except (OSError, ValueError, TypeError):
        return
