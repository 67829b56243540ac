"""Data files of every format, as spreadsheets, shells and libraries write them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from ida_tui.config.data.records import Record, open_records
from ida_tui.errors import UsageError

ROWS = [
    {"prompt": "How do I kill a hung Python process?", "kind": "harmless"},
    {"prompt": "Où est la gare ? C’est loin…", "kind": "harmless"},
]
TABLE = "prompt;kind\r\n" + "".join(f"{row['prompt']};{row['kind']}\r\n" for row in ROWS)


def read(name: str, content: bytes) -> list[Record]:
    Path(name).write_bytes(content)
    return list(open_records(Path(name)))


def rows(name: str, content: bytes) -> list[dict[str, Any]]:
    return [record.fields for record in read(name, content)]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"]
)
def test_the_encoding_of_a_table_is_found(encoding: str) -> None:
    assert rows("x.csv", TABLE.encode(encoding)) == ROWS


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_of_a_table_is_found(delimiter: str) -> None:
    content = TABLE.replace(";", delimiter).encode()

    file_rows = rows("x.csv", content)

    assert file_rows == ROWS
    file = open_records(Path("x.csv"))
    list(file)
    assert bool(file.notes) == (delimiter != ",")


def test_a_table_of_one_column_may_have_commas_in_its_text() -> None:
    content = b"prompt\nHello, world\nHow are you; today?\n"

    assert [row["prompt"] for row in rows("x.csv", content)] == [
        "Hello, world",
        "How are you; today?",
    ]


@pytest.mark.parametrize(
    "name",
    ["lines.jsonl", "lines.json", "array.json", "pretty.json", "columns.json", "nested.json",
     "list.yaml", "profile.yaml", "table.parquet"],
)  # fmt: skip
def test_every_format_gives_the_same_rows(name: str) -> None:
    lines = "\n".join(json.dumps(row) for row in ROWS).encode()
    columns = {key: [row[key] for row in ROWS] for key in ROWS[0]}
    pyarrow.parquet.write_table(pyarrow.table(columns), "table.parquet")
    content = {
        "lines": lines,
        "array": json.dumps(ROWS).encode(),
        "pretty": json.dumps(ROWS, indent=2).encode(),
        "columns": json.dumps(columns).encode(),
        "nested": json.dumps({"version": 1, "data": ROWS}).encode(),
        "list": json.dumps(ROWS).encode(),
        "profile": json.dumps({"name": "x", "prompts": ROWS}).encode(),
        "table": Path("table.parquet").read_bytes(),
    }[Path(name).stem]

    assert rows(name, content) == ROWS


def test_a_record_knows_its_line() -> None:
    records = read("x.csv", b'prompt,kind\n\n"two\nlines",harmless\nlast,unsafe\n')

    assert [record.number for record in records] == [3, 5]
    assert [r.number for r in read("x.jsonl", b'\n{"prompt": "a"}\n\n{"prompt": "b"}')] == [2, 4]


def test_a_field_of_any_length_is_read() -> None:
    text = "x" * 200_000

    assert rows("x.csv", f'prompt,kind\n"{text}",harmless\n'.encode())[0]["prompt"] == text


def test_values_that_json_lacks_become_text_or_null() -> None:
    table = pyarrow.table(
        {
            "prompt": ["a"],
            "score": [float("nan")],
            "day": pyarrow.array([0], pyarrow.date32()),
            "picture": [b"\x89PNG"],
        }
    )
    pyarrow.parquet.write_table(table, "x.parquet")

    file = open_records(Path("x.parquet"))

    assert [record.fields for record in file] == [
        {"prompt": "a", "score": None, "day": "1970-01-01"}
    ]
    assert file.notes == ["x.parquet: columns left out, because they hold bytes: picture"]


@pytest.mark.parametrize(
    ("name", "content", "title", "where"),
    [
        ("x.csv", b"prompt,kind\na,b,c\n", "this line has 3 columns, but the header has 2", "x.csv:2"),
        ("x.csv", b"a,a\n1,2\n", 'two columns are named "a"', "x.csv:1"),
        ("x.csv", b'prompt,kind\n"open,b\n', "invalid CSV", "x.csv:2"),
        ("x.csv", b"prompt,kind\na\0b,c\n", "not a text file: it has a null character", "x.csv"),
        ("x.jsonl", b'{"prompt": "a"}\n{"prompt": \n', "this line is not JSON", "x.jsonl:2"),
        ("x.jsonl", b'"a"\n', "this line is not a JSON object", "x.jsonl:1"),
        ("x.jsonl", b"9" * 5000, "this line is not JSON", "x.jsonl:1"),
        ("x.jsonl", gzip.compress(b"{}", mtime=0), "is compressed (gzip)", "x.jsonl"),
        ("x.json", b'{"a": [1], "b": [1, 2]}', "different lengths: a 1, b 2", "x.json"),
        ("x.json", b'["a"]', "this row is not an object", "x.json, row 1"),
        ("x.json", b"[", "the file is not JSON", "x.json"),
        ("x.parquet", b"PAR1", "is not a readable Parquet file", "x.parquet"),
        ("x.yaml", b"prompts: 3\n", "the file has no list of prompts", "x.yaml:1"),
        ("x.txt", b"a\n", "unsupported file type (.txt)", ""),
        ("x.csv.gz", b"", "is compressed", ""),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_error_with_its_place(
    name: str, content: bytes, title: str, where: str
) -> None:
    with pytest.raises(UsageError) as refused:
        read(name, content)

    assert title in refused.value.title
    assert refused.value.where == where
    assert refused.value.hint


def test_a_json_array_in_a_file_of_lines_is_named_as_such() -> None:
    with pytest.raises(UsageError) as refused:
        read("x.jsonl", b'[\n{"prompt": "a"}\n]')

    assert "rename it to .json" in refused.value.hint


def test_a_large_yaml_file_names_json_lines_as_the_way_out() -> None:
    content = "".join(f"- {{id: q{n}, text: How, kind: harmless}}\n" for n in range(6000))

    with pytest.raises(UsageError) as refused:
        read("x.yaml", content.encode())

    assert "JSON lines" in refused.value.hint
