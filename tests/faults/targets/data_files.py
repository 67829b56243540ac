"""Hostile data files: CSV, JSON Lines, JSON, YAML and Parquet with strange values, encodings and damage."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from pathlib import Path
from random import Random
from typing import Any

import pyarrow
import pyarrow.parquet

from ida_tui.config.data.columns import AUTOMATIC_NAMES, KIND_WORDS, SPLIT_WORDS
from ida_tui.config.prompts import PromptColumns, PromptSet
from ida_tui.errors import UsageError
from ida_tui.util.text import multiple_lines
from tests.faults import hostile
from tests.faults.targets.output import check_printable

_NAMES = [name for names in AUTOMATIC_NAMES.values() for name in names]
_WORDS = [*KIND_WORDS, *SPLIT_WORDS, "contrast_x", "", "maybe"]
_ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252")


def data_file(rng: Random) -> bool:
    """Read a data file, and make every prompt of it."""
    suffix, content = _file(rng)
    if rng.random() < 0.25:
        content = hostile.mutate_bytes(content, rng)
    file = Path(f"data{suffix}")
    file.write_bytes(content)
    roles = rng.sample(list(PromptColumns.model_fields), rng.choice([0, 0, 0, 1, 2]))
    prompts = PromptSet(
        source=str(file),
        columns=PromptColumns(**{role: rng.choice(["", *_NAMES]) for role in roles}),
        limit=rng.choice([None, None, 1, 3]),
        shuffle=rng.choice([False, True, 7]),
        held_out_fraction=rng.choice([None, None, 0.3]),
    )
    trap = Path("trap")
    try:
        loaded = prompts.load()
        for prompt in prompts.rows():
            # A prompt that is made of a row is as valid as one that is written in a profile.
            assert type(prompt).model_validate(prompt.model_dump(), strict=True) == prompt
            json.dumps(prompt.columns, allow_nan=False)
            prompt.text.encode()
        assert len({prompt.id for prompt in prompts.rows()}) == len(prompts.rows())
        assert len(prompts.train()) + sum(p.split == "held-out" for p in prompts.rows()) == len(
            prompts.rows()
        )
        check_printable("\n".join(loaded.notes))
        return True
    except UsageError as error:
        check_printable(multiple_lines("\n".join(error.lines())))
        return False
    finally:
        assert not trap.exists(), "a data file ran code"
        with contextlib.suppress(OSError):
            os.unlink(file)  # noqa: PTH108


def _file(rng: Random) -> tuple[str, bytes]:
    rows = _rows(rng)
    choice = rng.random()
    if choice < 0.1:
        return ".parquet", _parquet(rows)
    if choice < 0.2:
        return ".yaml", json.dumps(rows if rng.random() < 0.5 else {"prompts": rows}).encode()
    if choice < 0.25:
        return rng.choice([".csv", ".jsonl", ".json", ".tsv"]), rng.choice(_TRAPS)
    encoding = rng.choice(_ENCODINGS)
    if choice < 0.5:
        text, suffix = _csv(rows, rng), rng.choice([".csv", ".tsv", ".tab"])
    elif choice < 0.8:
        text, suffix = "\n".join(map(json.dumps, rows)), rng.choice([".jsonl", ".ndjson", ".json"])
    else:
        columns = {name: [row.get(name) for row in rows] for name in rows[0]} if rows else {}
        text, suffix = json.dumps(rng.choice([rows, columns, {"data": rows}])), ".json"
    return suffix, text.encode(encoding, "replace")


_TRAPS = (
    b'cposix\nsystem\n(S"touch trap"\ntR.',
    b"import os; os.system('touch trap')\n",
    b"\"=cmd|' /C touch trap'!A0\",prompt\n",
    b"{" * 100_000,
    b"[" * 100_000,
    b'"' * 100_000,
    b"\n" * 100_000,
    b"," * 100_000,
    b'{"prompt": ' + b"9" * 10_000 + b"}\n",
    b'{"prompt": "a", "x": 1e999}\n{"prompt": "b", "x": NaN}\n',
    b"\x1f\x8b\x08\x00",
    b"PK\x03\x04",
    b"PAR1" * 100,
    b"",
)
"""Pickles, code, formulas of a spreadsheet, bombs and other files in disguise."""


def _rows(rng: Random) -> list[dict[str, Any]]:
    names = rng.sample(_NAMES, rng.randint(0, 4)) + [hostile.text(rng)[:20]] * rng.randint(0, 1)
    if rng.random() < 0.8:
        names.append("prompt")
    return [
        {name: _cell(name, rng) for name in names if rng.random() < 0.995}
        for _ in range(rng.choice([0, *range(1, 13)]))
    ]


def _cell(name: str, rng: Random) -> Any:
    if rng.random() < 0.03:
        return hostile.value(rng)
    if name in AUTOMATIC_NAMES["messages"] or (
        name in ("prompt", "history") and rng.random() < 0.1
    ):
        roles = ("system", "user", "assistant", "human", "gpt", "tool")
        return [
            {"role": rng.choice(roles), "content": hostile.text(rng)}
            for _ in range(rng.randint(0, 3))
        ]
    if name in (*AUTOMATIC_NAMES["kind"], "split"):
        return rng.choice(_WORDS)
    if name in AUTOMATIC_NAMES["id"]:
        return rng.randint(0, 10**6)
    return (
        f"How do I whisk an egg{rng.randint(0, 99)}?" if rng.random() < 0.7 else hostile.text(rng)
    )


def _csv(rows: list[dict[str, Any]], rng: Random) -> str:
    out = io.StringIO()
    names = list(rows[0]) if rows else ["prompt"]
    writer = csv.writer(out, delimiter=rng.choice(",,;\t|"), escapechar="\\")
    writer.writerow(names)
    for row in rows:
        writer.writerow([row.get(name) for name in names])
    return out.getvalue()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    names = sorted({name.encode("utf-8", "replace").decode() for row in rows for name in row})
    columns = {
        name: pyarrow.array([json.dumps(row.get(name)) for row in rows], pyarrow.string())
        for name in names
    }
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), out)
    return out.getvalue()
