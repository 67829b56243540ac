"""Loader for evaluation prompts from a CSV, JSON Lines or YAML file.

    loaded = load("xstest_prompts.csv", kind=None)

The columns determine the layout:

| layout | columns | which prompts are unsafe |
|---|---|---|
| XSTest | id or id_v2, prompt, type, label, … | ``label`` unsafe; without it, ``type`` contrast_… |
| JBB-Behaviors | Index, Goal, Target, Behavior, … | all or none, by the file name or `kind` |
| CSV and JSON Lines of ida-tui | prompt, kind | ``kind`` unsafe |
| YAML | a prompts profile, or its name | ``kind`` unsafe |

The public data sets are not included; users download them.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ida_tui.config.resolve import resolve_profile
from ida_tui.config.schema import Kind, Prompt, PromptSet
from ida_tui.errors import UsageError
from ida_tui.util.paths import expanded, shown_path
from ida_tui.util.text import printable, quoted

MAX_BYTES = 20_000_000
MAX_PROMPTS = 5_000
"""Maximum prompts; two models answer each one several times, and every answer is judged."""
SAFE = {"safe": "harmless", "unsafe": "unsafe", "harmless": "harmless", "benign": "harmless"}
"""Label in a file, in lower case → prompt kind."""
LAYOUTS = (
    "use a CSV file with the columns prompt,kind (or those of XSTest or JBB-Behaviors), JSON lines such\n"
    'as {"prompt": "…", "kind": "harmless"}, or a prompts profile in YAML'
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Prompts loaded from a file or profile."""

    name: str
    """Name of the prompt set, or of the file."""
    prompts: tuple[Prompt, ...]

    def apart_from(self, trained: Iterable[Prompt]) -> Chosen:
        """The prompts not in `trained`, without duplicates, compared by `normalised` text."""
        seen = {normalised(prompt.text) for prompt in trained}
        remaining = []
        for prompt in self.prompts:
            if (text := normalised(prompt.text)) not in seen:
                seen.add(text)
                remaining.append(prompt)
        return Chosen(self.name, tuple(remaining))


def normalised(text: str) -> str:
    """A prompt's text for comparison: case-folded, without extra spaces or outer punctuation."""
    return re.sub(r"^\W+|\W+$", "", " ".join(text.casefold().split()))


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    fields: Mapping[str, Any]
    """Column name in lower case → value."""


def load(name: str, kind: Kind | None) -> Chosen:
    """The prompts of a file or of a prompts profile.

    Args:
        name: a path ending in .csv, .jsonl, .yaml or .yml, or the name of a prompts profile.
        kind: the kind of all prompts, for a file that has no kinds.

    Raises:
        UsageError: the file cannot be read, has an unknown layout, or has no kinds.
    """
    path = expanded(name)
    extension = path.suffix.lower()
    if extension not in (".csv", ".jsonl"):
        return _profile(name, kind)
    text = _text(path)
    rows = list(_csv(text, path) if extension == ".csv" else _json_lines(text, path))
    if not rows:
        raise UsageError(f"{_shown(path)} has no prompts", LAYOUTS, where=_shown(path))
    if len(rows) > MAX_PROMPTS:
        raise UsageError(
            f"{_shown(path)} has {len(rows):,} prompts; the maximum is {MAX_PROMPTS:,}",
            "use a subset",
            where=_shown(path),
        )
    return Chosen(path.name, tuple(_prompts(rows, path, kind)))


def _profile(name: str, kind: Kind | None) -> Chosen:
    path = expanded(name)
    if path.suffix.lower() not in ("", ".yaml") and path.is_file():
        raise UsageError(
            f"{_shown(path)} has the unsupported file type {printable(path.suffix)}", LAYOUTS
        )
    prompt_set = resolve_profile("prompts", name).config
    if kind is not None:
        raise _tells_itself(name)
    assert isinstance(prompt_set, PromptSet)
    # A set without held-out prompts is used in full.
    return Chosen(prompt_set.name or name, tuple(prompt_set.held_out() or prompt_set.prompts))


def _prompts(rows: Sequence[_Row], path: Path, kind: Kind | None) -> Iterator[Prompt]:
    columns = rows[0].fields
    if "goal" in columns and "behavior" in columns:
        file_kind = kind or _jbb_kind(path)
        for row in rows:
            yield _prompt(row, path, row.fields.get("goal"), file_kind)
        return
    if "prompt" not in columns:
        raise UsageError(
            f"{_shown(path)} has an unknown layout; its columns: {_names(columns)}",
            LAYOUTS,
            where=f"{_shown(path)}:{rows[0].line}",
        )
    kind_column = next((name for name in ("kind", "label", "type") if name in columns), None)
    if kind_column is None and kind is None:
        raise UsageError(
            f"{_shown(path)} does not say which prompts are harmless and which are unsafe",
            "add a kind column, or set one kind for all prompts: --kind harmless (or unsafe)",
            where=f"{_shown(path)}:{rows[0].line}",
        )
    if kind_column is not None and kind is not None:
        raise _tells_itself(_shown(path))
    for row in rows:
        prompt_kind = kind if kind_column is None else _kind(row, path, kind_column)
        assert prompt_kind is not None
        yield _prompt(row, path, row.fields.get("prompt"), prompt_kind)


def _kind(row: _Row, path: Path, column: str) -> Kind:
    label = str(row.fields.get(column) or "").strip().lower()
    if column == "type" and label:
        # Older XSTest layout: contrast_ types are the unsafe counterparts of the harmless prompts.
        return "unsafe" if label.startswith("contrast_") else "harmless"
    if label not in SAFE:
        raise UsageError(
            f"{column} is {quoted(row.fields.get(column))}, which is not a known kind",
            "use harmless (or safe), or unsafe",
            where=f"{_shown(path)}:{row.line}",
        )
    return cast(Kind, SAFE[label])


def _jbb_kind(path: Path) -> Kind:
    """The kind of a JBB-Behaviors file by its name; harmful and benign files have the same columns."""
    name = path.name.lower()
    unsafe, harmless = "harmful" in name, "benign" in name or "harmless" in name
    if unsafe == harmless:
        raise UsageError(
            f"{_shown(path)} has the columns of JBB-Behaviors, which do not say what is harmful",
            "add --kind unsafe for the harmful file, --kind harmless for the benign file",
            where=_shown(path),
        )
    return "unsafe" if unsafe else "harmless"


def _prompt(row: _Row, path: Path, text: object, kind: Kind) -> Prompt:
    if not isinstance(text, str) or not text.strip():
        raise UsageError(
            "a prompt is empty or not text",
            "fill it in, or remove its line",
            where=f"{_shown(path)}:{row.line}",
        )
    # Ids in the public sets are not always unique, so the line number is used.
    return Prompt(id=f"{path.stem}:{row.line}", kind=kind, split="held-out", text=text.strip())


def _csv(text: str, path: Path) -> Iterator[_Row]:
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
                    where=f"{_shown(path)}:{line}",
                )
            yield _Row(line, dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise UsageError(
            f"invalid CSV: {error}",
            "put text that contains a comma or a line break in double quotes",
            where=f"{_shown(path)}:{reader.line_num}",
        ) from None


def _json_lines(text: str, path: Path) -> Iterator[_Row]:
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
                where=f"{_shown(path)}:{number}",
            )
        fields = {key.lower(): value for key, value in parsed.items()}
        if "prompt" not in fields and "text" in fields:
            fields["prompt"] = fields["text"]
        yield _Row(number, fields)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(
                f"{_shown(path)} is larger than {MAX_BYTES // 10**6} MB",
                "use a subset",
                where=_shown(path),
            )
        # Spreadsheets write a byte order mark.
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(
            f"{_shown(path)} is not UTF-8 text", "save it as UTF-8", where=_shown(path)
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"could not read {_shown(path)}: {reason}", LAYOUTS) from None


def _tells_itself(name: str) -> UsageError:
    return UsageError(f"{printable(name)} already has a kind for each prompt", "remove --kind")


def _names(columns: Mapping[str, Any]) -> str:
    return printable(", ".join(columns))[:200] or "no columns"


def _shown(path: Path) -> str:
    return printable(shown_path(path))
