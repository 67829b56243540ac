"""Loader for evaluation prompts from a CSV, JSON Lines or YAML file.

    loaded = load("xstest_prompts.csv", kind=None)

The columns determine the layout:

| layout | columns | which prompts are unsafe |
|---|---|---|
| XSTest | id or id_v2, prompt, type, label, … | `label` unsafe; without it, `type` contrast_… |
| JBB-Behaviors | Index, Goal, Target, Behavior, … | all or none, by the file name or `kind` |
| CSV and JSON Lines of ida-tui | prompt, kind | `kind` unsafe |
| YAML | a prompts profile, or its name | `kind` unsafe |

The public data sets are not included; users download them.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ida_tui.config.prompt_text import separate_repeated
from ida_tui.config.resolve import resolve_profile
from ida_tui.config.schema import Prompt, PromptKind, PromptSet
from ida_tui.errors import UsageError
from ida_tui.util.paths import display_path, expand_home
from ida_tui.util.safe_files import read_bytes
from ida_tui.util.text import one_line, quoted

MAX_FILE_BYTES = 20_000_000
MAX_PROMPTS = 5_000
"""Maximum prompts; two models answer each one several times, and every answer is judged."""
KIND_BY_LABEL = {
    "safe": "harmless",
    "unsafe": "unsafe",
    "harmless": "harmless",
    "benign": "harmless",
}
"""Label in a file, in lower case → prompt kind."""
SUPPORTED_LAYOUTS = (
    "use a CSV file with the columns prompt,kind (or those of XSTest or JBB-Behaviors), JSON lines such\n"
    'as {"prompt": "…", "kind": "harmless"}, or a prompts profile in YAML'
)


@dataclass(frozen=True, slots=True)
class EvaluationPrompts:
    """Prompts loaded from a file or profile."""

    name: str
    """Name of the prompt set, or of the file."""
    prompts: tuple[Prompt, ...]

    def without_trained(self, trained: Iterable[Prompt]) -> EvaluationPrompts:
        """The prompts not in `trained`, without duplicates, compared by normalized text."""
        return EvaluationPrompts(self.name, tuple(separate_repeated(self.prompts, trained)[0]))


@dataclass(frozen=True, slots=True)
class _FileRow:
    line: int
    fields: Mapping[str, Any]
    """Column name in lower case → value."""


def load_prompts(name: str, kind: PromptKind | None) -> EvaluationPrompts:
    """The prompts of a file or of a prompts profile.

    Args:
        name: a path ending in .csv, .jsonl, .yaml or .yml, or the name of a prompts profile.
        kind: the kind of all prompts, for a file that has no kinds.

    Raises:
        UsageError: the file cannot be read, has an unknown layout, or has no kinds.
    """
    path = expand_home(name)
    extension = path.suffix.lower()
    if extension not in (".csv", ".jsonl"):
        return _load_profile_prompts(name, kind)
    text = _read_text(path)
    rows = list(_read_csv(text, path) if extension == ".csv" else _read_json_lines(text, path))
    if not rows:
        raise UsageError(
            f"{_display_path(path)} has no prompts", SUPPORTED_LAYOUTS, where=_display_path(path)
        )
    if len(rows) > MAX_PROMPTS:
        raise UsageError(
            f"{_display_path(path)} has {len(rows):,} prompts; the maximum is {MAX_PROMPTS:,}",
            "use a subset of the prompts",
            where=_display_path(path),
        )
    return EvaluationPrompts(path.name, tuple(_parse_rows(rows, path, kind)))


def _load_profile_prompts(name: str, kind: PromptKind | None) -> EvaluationPrompts:
    path = expand_home(name)
    if path.suffix.lower() not in ("", ".yaml") and path.is_file():
        raise UsageError(
            f"{_display_path(path)} has an unsupported file type ({one_line(path.suffix)})",
            SUPPORTED_LAYOUTS,
        )
    prompt_set = resolve_profile("prompts", name).config
    if kind is not None:
        raise _kind_conflict_error(name)
    assert isinstance(prompt_set, PromptSet)
    # A set without held-out prompts is used in full. Without a system prompt it gets that of the run.
    prompts = prompt_set.held_out() or prompt_set.prompts
    if prompt_set.system is not None:
        prompts = [
            prompt
            if prompt.system is not None
            else prompt.model_copy(update={"system": prompt_set.system})
            for prompt in prompts
        ]
    return EvaluationPrompts(prompt_set.name or name, tuple(prompts))


def _parse_rows(rows: Sequence[_FileRow], path: Path, kind: PromptKind | None) -> Iterator[Prompt]:
    columns = rows[0].fields
    if "goal" in columns and "behavior" in columns:
        file_kind = kind or _jbb_kind(path)
        for row in rows:
            yield _make_prompt(row, path, row.fields.get("goal"), file_kind)
        return
    if "prompt" not in columns:
        raise UsageError(
            f"{_display_path(path)} has an unknown layout; its columns: {_column_names(columns)}",
            SUPPORTED_LAYOUTS,
            where=f"{_display_path(path)}:{rows[0].line}",
        )
    kind_column = next((name for name in ("kind", "label", "type") if name in columns), None)
    if kind_column is None and kind is None:
        raise UsageError(
            f"{_display_path(path)} does not say which prompts are harmless and which are unsafe",
            "add a kind column, or set one kind for all prompts: --kind harmless (or unsafe)",
            where=f"{_display_path(path)}:{rows[0].line}",
        )
    if kind_column is not None and kind is not None:
        raise _kind_conflict_error(_display_path(path))
    for row in rows:
        prompt_kind = kind if kind_column is None else _row_kind(row, path, kind_column)
        assert prompt_kind is not None
        yield _make_prompt(row, path, row.fields.get("prompt"), prompt_kind)


def _row_kind(row: _FileRow, path: Path, column: str) -> PromptKind:
    label = str(row.fields.get(column) or "").strip().lower()
    if column == "type" and label:
        # Older XSTest layout: contrast_ types are the unsafe counterparts of the harmless prompts.
        return "unsafe" if label.startswith("contrast_") else "harmless"
    if label not in KIND_BY_LABEL:
        raise UsageError(
            f"{column} must be harmless or unsafe, not {quoted(row.fields.get(column))}",
            "write harmless, safe or benign for a harmless prompt, and unsafe for an unsafe one",
            where=f"{_display_path(path)}:{row.line}",
        )
    return cast(PromptKind, KIND_BY_LABEL[label])


def _jbb_kind(path: Path) -> PromptKind:
    """The kind of a JBB-Behaviors file by its name; harmful and benign files have the same columns."""
    name = path.name.lower()
    unsafe, harmless = "harmful" in name, "benign" in name or "harmless" in name
    if unsafe == harmless:
        raise UsageError(
            f"{_display_path(path)} has the columns of JBB-Behaviors, which do not say what is harmful",
            "add --kind unsafe for the harmful file, --kind harmless for the benign file",
            where=_display_path(path),
        )
    return "unsafe" if unsafe else "harmless"


def _make_prompt(row: _FileRow, path: Path, text: object, kind: PromptKind) -> Prompt:
    if not isinstance(text, str) or not text.strip():
        raise UsageError(
            "a prompt is empty or not text",
            "write the text of the prompt, or remove the line",
            where=f"{_display_path(path)}:{row.line}",
        )
    # Ids in the public sets are not always unique, so the line number is used.
    return Prompt(id=f"{path.stem}:{row.line}", kind=kind, split="held-out", text=text.strip())


def _read_csv(text: str, path: Path) -> Iterator[_FileRow]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    before = 0
    try:
        for fields in reader:
            line, before = before + 1, reader.line_num
            if not any(field.strip() for field in fields):
                continue
            if header is None:
                header = [field.strip().lower() for field in fields]
                continue
            if len(fields) != len(header):
                raise UsageError(
                    f"this line has {len(fields)} columns, but the header has {len(header)}",
                    "put text that contains a comma in double quotes",
                    where=f"{_display_path(path)}:{line}",
                )
            yield _FileRow(line, dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise UsageError(
            f"invalid CSV: {error}",
            "put text that contains a comma or a line break in double quotes",
            where=f"{_display_path(path)}:{reader.line_num}",
        ) from None


def _read_json_lines(text: str, path: Path) -> Iterator[_FileRow]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            parsed = json.loads(line)
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            raise UsageError(
                "this line is not a JSON object",
                'write one object per line, such as {"prompt": "…", "kind": "harmless"}',
                where=f"{_display_path(path)}:{number}",
            )
        fields = {key.lower(): value for key, value in parsed.items()}
        if "prompt" not in fields and "text" in fields:
            fields["prompt"] = fields["text"]
        yield _FileRow(number, fields)


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError(
                f"{_display_path(path)} is larger than {MAX_FILE_BYTES // 10**6} MB",
                "use a subset of the prompts",
                where=_display_path(path),
            )
        # Spreadsheets write a byte order mark.
        return read_bytes(Path(os.path.realpath(path)), MAX_FILE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(
            f"{_display_path(path)} is not UTF-8 text",
            "save it as UTF-8",
            where=_display_path(path),
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"could not read {_display_path(path)}: {reason}", SUPPORTED_LAYOUTS
        ) from None


def _kind_conflict_error(name: str) -> UsageError:
    return UsageError(
        f"{one_line(name)} already has a kind for each prompt",
        "remove --kind, which is only for files without kinds",
    )


def _column_names(columns: Mapping[str, Any]) -> str:
    return one_line(", ".join(columns))[:200] or "no columns"


def _display_path(path: Path) -> str:
    return one_line(display_path(path))
