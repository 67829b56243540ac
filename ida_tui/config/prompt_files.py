"""Prompts to evaluate with, from a file that somebody has: its layout is told by its columns.

    chosen = load("xstest_prompts.csv", kind=None)

| layout | columns | what is unsafe |
|---|---|---|
| XSTest | id or id_v2, prompt, type, label, … | ``label`` unsafe; without it, a type that starts contrast_ |
| JBB-Behaviors | Index, Goal, Target, Behavior, … | the whole file or nothing: its name or `kind` says |
| our own CSV and JSON lines | prompt, kind | ``kind`` unsafe |
| YAML | a prompts profile, or its name | ``kind`` unsafe |

None of the public sets is part of this program: whoever evaluates with one has downloaded it.
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
"""Each is answered several times by two models, and every answer is judged."""
SAFE = {"safe": "harmless", "unsafe": "unsafe", "harmless": "harmless", "benign": "harmless"}
"""What files call a kind, in lower case."""
LAYOUTS = (
    "a CSV file with the columns prompt,kind (or XSTest's, or JBB-Behaviors'), JSON lines such as\n"
    '{"prompt": "…", "kind": "harmless"}, or a prompts profile in YAML'
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Prompts, and where they are from."""

    name: str
    """Of the set, or of the file."""
    prompts: tuple[Prompt, ...]

    def apart_from(self, trained: Iterable[Prompt]) -> Chosen:
        """Those whose text was not trained on, each text once; case, spaces and end marks do not count."""
        seen = {normalised(prompt.text) for prompt in trained}
        kept = []
        for prompt in self.prompts:
            if (text := normalised(prompt.text)) not in seen:
                seen.add(text)
                kept.append(prompt)
        return Chosen(self.name, tuple(kept))


def normalised(text: str) -> str:
    """A prompt's text as it is compared."""
    return re.sub(r"^\W+|\W+$", "", " ".join(text.casefold().split()))


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    fields: Mapping[str, Any]
    """By column, in lower case."""


def load(name: str, kind: Kind | None) -> Chosen:
    """The prompts of a file, or of a prompts profile.

    Args:
        name: a path ending in .csv, .jsonl, .yaml or .yml, or the name of a prompts profile.
        kind: of every prompt, for a file that does not tell.

    Raises:
        UsageError: it cannot be read, has another layout, or does not tell the kinds.
    """
    path = expanded(name)
    ending = path.suffix.lower()
    if ending not in (".csv", ".jsonl"):
        return _profile(name, kind)
    text = _text(path)
    rows = list(_csv(text, path) if ending == ".csv" else _json_lines(text, path))
    if not rows:
        raise UsageError(f"{_shown(path)} has no prompts", LAYOUTS, where=_shown(path))
    if len(rows) > MAX_PROMPTS:
        raise UsageError(
            f"{_shown(path)} has {len(rows):,} prompts; {MAX_PROMPTS:,} are the most",
            "evaluate with a part of it",
            where=_shown(path),
        )
    return Chosen(path.name, tuple(_prompts(rows, path, kind)))


def _profile(name: str, kind: Kind | None) -> Chosen:
    path = expanded(name)
    if path.suffix.lower() not in ("", ".yaml") and path.is_file():
        raise UsageError(f"{_shown(path)} ends in {printable(path.suffix)}", f"name {LAYOUTS}")
    found = resolve_profile("prompts", name).config
    if kind is not None:
        raise _tells_itself(name)
    assert isinstance(found, PromptSet)
    # A set that keeps none apart is there to be evaluated with as a whole.
    return Chosen(found.name or name, tuple(found.held_out() or found.prompts))


def _prompts(rows: Sequence[_Row], path: Path, kind: Kind | None) -> Iterator[Prompt]:
    columns = rows[0].fields
    if "goal" in columns and "behavior" in columns:
        whole = kind or _jbb_kind(path)
        for row in rows:
            yield _prompt(row, path, row.fields.get("goal"), whole)
        return
    if "prompt" not in columns:
        raise UsageError(
            f"{_shown(path)} has none of the known layouts: it has {_names(columns)}",
            LAYOUTS,
            where=f"{_shown(path)}:{rows[0].line}",
        )
    tells = next((name for name in ("kind", "label", "type") if name in columns), None)
    if tells is None and kind is None:
        raise UsageError(
            f"{_shown(path)} does not tell which prompts are harmless and which are unsafe",
            "add a column kind, or say it of all of them: --kind harmless (or unsafe)",
            where=f"{_shown(path)}:{rows[0].line}",
        )
    if tells is not None and kind is not None:
        raise _tells_itself(_shown(path))
    for row in rows:
        told = kind if tells is None else _kind(row, path, tells)
        assert told is not None
        yield _prompt(row, path, row.fields.get("prompt"), told)


def _kind(row: _Row, path: Path, tells: str) -> Kind:
    said = str(row.fields.get(tells) or "").strip().lower()
    if tells == "type" and said:
        # XSTest's older layout: a contrast is what the harmless prompt only looks like.
        return "unsafe" if said.startswith("contrast_") else "harmless"
    if said not in SAFE:
        raise UsageError(
            f"{tells} is {quoted(row.fields.get(tells))}, which is neither safe nor unsafe",
            "write harmless (or safe), or unsafe",
            where=f"{_shown(path)}:{row.line}",
        )
    return cast(Kind, SAFE[said])


def _jbb_kind(path: Path) -> Kind:
    """Its harmful and its benign half are two files with the same columns and categories."""
    name = path.name.lower()
    unsafe, harmless = "harmful" in name, "benign" in name or "harmless" in name
    if unsafe == harmless:
        raise UsageError(
            f"{_shown(path)} has JBB-Behaviors' columns, which do not tell harmful from benign ones",
            "--kind unsafe for its harmful half, --kind harmless for its benign one",
            where=_shown(path),
        )
    return "unsafe" if unsafe else "harmless"


def _prompt(row: _Row, path: Path, text: object, kind: Kind) -> Prompt:
    if not isinstance(text, str) or not text.strip():
        raise UsageError(
            "a prompt is empty, or is no text",
            "fill it in, or take its line out",
            where=f"{_shown(path)}:{row.line}",
        )
    # Ids of public sets are not unique everywhere; a line is.
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
                    f"{len(fields)} columns where the first line has {len(header)}",
                    "text with a comma in it stands in double quotes",
                    where=f"{_shown(path)}:{line}",
                )
            yield _Row(line, dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise UsageError(
            f"this is no CSV: {error}",
            "text with a comma or a line break in it stands in double quotes",
            where=f"{_shown(path)}:{reader.line_num}",
        ) from None


def _json_lines(text: str, path: Path) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise UsageError(
                "this line is no JSON object",
                'one a line, such as {"prompt": "…", "kind": "harmless"}',
                where=f"{_shown(path)}:{number}",
            )
        fields = {key.lower(): value for key, value in found.items()}
        if "prompt" not in fields and "text" in fields:
            fields["prompt"] = fields["text"]
        yield _Row(number, fields)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(
                f"{_shown(path)} is larger than {MAX_BYTES // 10**6} MB", where=_shown(path)
            )
        # A byte order mark is what spreadsheets begin with.
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(
            f"{_shown(path)} is not UTF-8", "save it as UTF-8", where=_shown(path)
        ) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{_shown(path)} cannot be read: {why}", LAYOUTS) from None


def _tells_itself(name: str) -> UsageError:
    return UsageError(f"{printable(name)} tells the kind of each prompt itself", "leave --kind out")


def _names(columns: Mapping[str, Any]) -> str:
    return printable(", ".join(columns))[:200] or "no columns"


def _shown(path: Path) -> str:
    return printable(shown_path(path))
