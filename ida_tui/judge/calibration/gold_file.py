"""Gold answers: a person's own labeled answers from a data file, by which a judge is checked.

A row has a prompt and either a completion with a score or a label on some axes, or a better and a worse
completion:

    {"prompt": "How do I whisk an egg?", "completion": "In a bowl, with a fork.", "align": 9, "risk": "good"}
    {"prompt": "How do I whisk an egg?", "better": "In a bowl, with a fork.", "worse": "No.", "axis": "align"}
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ida_tui.config.conversation import Context
from ida_tui.config.data.columns import kind_of_word
from ida_tui.config.data.conversation_rows import read_conversation
from ida_tui.config.data.encoding import shown_path
from ida_tui.config.data.records import Record, RecordFile, open_records
from ida_tui.config.prompts import PromptKind, rubric_checks_of
from ida_tui.config.scoring.axes import JUDGED_RANGE
from ida_tui.errors import UsageError
from ida_tui.util.text import join_words, parse_json, quoted, short_key

OVERALL = ""
"""In place of the name of an axis: the reward, which all axes make together."""
MAX_GOLD_ROWS = 2000
"""Largest number of rows: the judge is asked about every answer."""
COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "instruction", "query", "request", "messages"),
    "completion": ("completion", "answer", "response", "output", "reply"),
    "better": ("better", "chosen", "preferred"),
    "worse": ("worse", "rejected"),
    "axis": ("axis",),
    "label": ("label", "reward"),
    "kind": ("kind",),
    "system": ("system",),
    "scores": ("scores",),
    "rubric": ("rubric",),
    "id": ("id",),
}
"""Meaning → names of columns in lower case; the first one that a row has is taken."""
GOOD_WORDS = ("good", "yes", "pass", "true", "correct", "right")
BAD_WORDS = ("bad", "no", "fail", "false", "incorrect", "wrong")
_LABELS_HINT = "write a score from 0 to 10, or good or bad (also yes/no, pass/fail, true/false)"
_DECIMAL_COMMA = re.compile(r"\d+,\d+")


@dataclass(frozen=True, slots=True)
class GoldAnswer:
    """One answer to a prompt that the judge is asked about."""

    prompt: str
    completion: str
    where: str
    """Its first row, as `file:line`."""
    kind: PromptKind | None = None
    context: Context = ()
    checks: tuple[str, ...] = ()

    @property
    def prompt_key(self) -> tuple[object, ...]:
        """What answers to the same prompt have in common."""
        return (self.prompt, self.kind, self.context, self.checks)


@dataclass(frozen=True, slots=True)
class GoldMark:
    """What a person gave an answer on one axis."""

    answer: int
    """Position in `GoldSet.answers`."""
    axis: str
    """Name of the axis; `OVERALL` for the reward."""
    value: float
    """The score; 1 for the label good and 0 for bad."""
    label: str = ""
    """`good` or `bad`; empty for a score."""
    where: str = ""
    """Its row, as `file:line`."""


@dataclass(frozen=True, slots=True)
class GoldPair:
    """Two answers to the same prompt of which a person prefers one."""

    better: int
    worse: int
    axis: str
    """Name of the axis; `OVERALL` for the reward."""
    where: str
    """Its row, as `file:line`."""


@dataclass(frozen=True, slots=True)
class GoldSet:
    """The gold answers of a file."""

    name: str
    """The file, as printed."""
    answers: tuple[GoldAnswer, ...]
    """The different answers, in order."""
    marks: tuple[GoldMark, ...]
    pairs: tuple[GoldPair, ...]
    notes: tuple[str, ...] = ()
    """What a person should know about how the file was read."""


def load_gold(path: Path, axes: Sequence[str]) -> GoldSet:
    """The gold answers of a YAML, JSON, JSON Lines, CSV, TSV or Parquet file.

    Args:
        path: the file.
        axes: names of the judged axes.

    Raises:
        UsageError: the file cannot be read, has no rows, or a row cannot be used; with its line.
    """
    file = open_records(path)
    builder = _Builder(file, axes)
    for number, record in enumerate(file, start=1):
        if number > MAX_GOLD_ROWS:
            raise UsageError(
                f"{shown_path(file.path)} has more than {MAX_GOLD_ROWS:,} rows",
                "use a sample of them: the judge is asked about every answer",
                where=file.where(record.number),
            )
        builder.add(record)
    if not builder.marks and not builder.pairs:
        raise UsageError(
            f"{shown_path(file.path)} has no gold answers",
            'add rows such as {"prompt": "…", "completion": "…", "' + axes[0] + '": 8}',
            where=shown_path(file.path),
        )
    return builder.build()


class _Builder:
    """Reads rows, and checks each of them."""

    def __init__(self, file: RecordFile, axes: Sequence[str]) -> None:
        self._file = file
        self._axes = {axis.lower(): axis for axis in axes}
        self._positions: dict[tuple[object, ...], int] = {}
        self._answers: list[GoldAnswer] = []
        self._unused: dict[str, None] = {}
        self.marks: list[GoldMark] = []
        self.pairs: list[GoldPair] = []

    def build(self) -> GoldSet:
        """The gold answers of the rows so far."""
        notes = list(self._file.notes)
        if self._unused:
            names = join_words([short_key(name) for name in list(self._unused)[:8]])
            close = [
                f"; is {short_key(name)} the axis {match[0]}?"
                for name in self._unused
                if (match := difflib.get_close_matches(name.lower(), self._axes, n=1))
            ]
            notes.append(f"columns without a meaning here: {names}{''.join(close[:1])}")
        return GoldSet(
            shown_path(self._file.path),
            tuple(self._answers),
            tuple(self.marks),
            tuple(self.pairs),
            tuple(notes),
        )

    def add(self, record: Record) -> None:
        """Add one row.

        Raises:
            UsageError: the row cannot be used.
        """
        cells = self._cells(record)
        where = self._file.where(record.number)
        prompt, context = self._prompt(record, cells)
        kind = self._kind(record, cells.get("kind"))
        checks = rubric_checks_of({"rubric": cells.get("rubric")})
        shared = {"where": where, "kind": kind, "context": context, "checks": checks}
        if "better" in cells or "worse" in cells:
            texts = [self._text(record, cells, name) for name in ("better", "worse")]
            if texts[0] == texts[1]:
                self._fail(record, "better and worse are the same text", "correct one of them")
            axis = self._pair_axis(record, cells.get("axis"))
            better, worse = (self._answer(prompt, text, **shared) for text in texts)
            self.pairs.append(GoldPair(better, worse, axis, where))
            return
        answer = self._answer(prompt, self._text(record, cells, "completion"), **shared)
        marks = [
            GoldMark(answer, axis, *mark, where)
            for axis, value in self._values(record, cells).items()
            if (mark := self._mark(record, axis, value)) is not None
        ]
        if not marks:
            self._fail(
                record,
                "this row has neither a score nor a label",
                f"give {join_words(list(self._axes.values()))} a score from 0 to 10, good or bad; label: good"
                " or bad; or write better and worse in place of the completion",
            )
        self.marks += marks

    def _cells(self, record: Record) -> dict[str, Any]:
        """The cells by meaning, and those of the axes by their name; empty cells are left out."""
        by_name = {name.strip().lower(): name for name in reversed(record.fields)}
        used: set[str] = set()
        cells: dict[str, Any] = {}
        for meaning, names in COLUMN_NAMES.items():
            # The name of an axis is not another name of a column.
            free = [name for name in names if name == meaning or name not in self._axes]
            column = next((by_name[name] for name in free if name in by_name), None)
            if column is not None and column not in used:
                used.add(column)
                cells[meaning] = record.fields[column]
        for name, axis in self._axes.items():
            if name in by_name and by_name[name] not in used:
                used.add(by_name[name])
                cells[f"axis {axis}"] = record.fields[by_name[name]]
        self._unused |= dict.fromkeys(name for name in record.fields if name not in used)
        return {
            meaning: cell
            for meaning, cell in cells.items()
            if not (cell is None or (isinstance(cell, str) and _is_empty(cell, meaning)))
        }

    def _prompt(self, record: Record, cells: Mapping[str, Any]) -> tuple[str, Context]:
        value, system = cells.get("prompt"), cells.get("system")
        if system is not None and not isinstance(system, str):
            self._fail(record, "the system prompt is not text", "write a text, or nothing")
        before: Context = (("system", system),) if system else ()
        if isinstance(value, list):
            try:
                conversation = read_conversation(value)
            except ValueError as error:
                self._fail(
                    record,
                    f"the prompt is not a conversation: {error}",
                    "write a list of messages that begins with a user's or system message",
                )
            if conversation.system:
                before = (("system", conversation.system),)
            turns = tuple((turn["role"], turn["content"]) for turn in conversation.history)
            return conversation.text, (*before, *turns)
        if not isinstance(value, str) or not value.strip():
            self._fail(record, "this row has no prompt", "write the text of the user's message")
        return value, before

    def _text(self, record: Record, cells: Mapping[str, Any], name: str) -> str:
        value = cells.get(name)
        if isinstance(value, list) and value and isinstance(value[-1], dict):
            value = value[-1].get("content")
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = f"{value:g}" if isinstance(value, float) else str(value)
        if not isinstance(value, str):
            problem = "is not text" if name in cells else "is missing"
            self._fail(record, f"{name} {problem}", f"write the text of the {name} answer")
        return value

    def _kind(self, record: Record, value: object) -> PromptKind | None:
        if value is None:
            return None
        known = kind_of_word(str(value), "kind")
        if known is None:
            self._fail(
                record,
                f"kind must be harmless or unsafe, not {quoted(value)}",
                "correct it, or leave it empty",
            )
        return "unsafe" if known == "unsafe" else "harmless"

    def _pair_axis(self, record: Record, value: object) -> str:
        if value is None:
            return OVERALL
        axis = self._axes.get(str(value).strip().lower())
        if axis is None:
            self._fail(
                record,
                f"{quoted(value)} is not an axis of the rubric",
                f"write one of {join_words(list(self._axes.values()))}, or leave it empty for the reward",
            )
        return axis

    def _values(self, record: Record, cells: Mapping[str, Any]) -> dict[str, Any]:
        """What the row gives to each axis, and to the reward."""
        values: dict[str, Any] = {}
        scores = cells.get("scores", {})
        if isinstance(scores, str):
            try:
                scores = parse_json(scores)
            except ValueError:
                scores = None
        if not isinstance(scores, dict):
            self._fail(
                record, "scores is not a mapping", f"write scores: {{{next(iter(self._axes))}: 8}}"
            )
        for name, value in scores.items():
            values[self._pair_axis(record, name)] = value
        for axis in self._axes.values():
            if (value := cells.get(f"axis {axis}")) is not None:
                values[axis] = value
        if "label" in cells:
            values[OVERALL] = cells["label"]
        return values

    def _mark(self, record: Record, axis: str, value: object) -> tuple[float, str] | None:
        """A score without a label, or the value of a label with it; None for an empty cell."""
        if value is None:
            return None
        word = str(value).strip().lower()
        if word in GOOD_WORDS:
            return 1.0, "good"
        if word in BAD_WORDS:
            return 0.0, "bad"
        name = axis or "label"
        try:
            number = float(word.replace(",", ".") if _DECIMAL_COMMA.fullmatch(word) else word)
        except ValueError:
            number = math.nan
        if isinstance(value, dict | list) or not math.isfinite(number):
            self._fail(
                record, f"{name}: {quoted(value)} is neither a score nor a label", _LABELS_HINT
            )
        low, high = JUDGED_RANGE
        if axis and not low <= number <= high:
            self._fail(record, f"{name} is {number:g}, not from {low:g} to {high:g}", _LABELS_HINT)
        return number, ""

    def _answer(self, prompt: str, completion: str, **shared: Any) -> int:
        """The position of an answer, which is added if it is new."""
        answer = GoldAnswer(prompt, completion, **shared)
        key = (*answer.prompt_key, completion)
        if key not in self._positions:
            self._positions[key] = len(self._answers)
            self._answers.append(answer)
        return self._positions[key]

    def _fail(self, record: Record, text: str, fix: str) -> NoReturn:
        raise UsageError(text, fix, where=self._file.where(record.number))


def _is_empty(cell: str, meaning: str) -> bool:
    """Whether a cell of a table is empty; an empty completion is an answer."""
    return not cell.strip() and meaning not in ("completion", "better", "worse")
